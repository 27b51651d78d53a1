// A stream server and client of Node.js' net: node_net.js server PORT | client PORT | self PORT
'use strict';
const net = require('net');
const http = require('http');
const crypto = require('crypto');

const [role, portWord] = process.argv.slice(2);
const port = Number(portWord);
const say = (...words) => console.log(...words);

// Bytes that are the same each time.
function bytes(size, seed) {
  const out = Buffer.alloc(size);
  let x = seed >>> 0 || 1;
  for (let i = 0; i < size; i++) {
    x ^= x << 13; x >>>= 0; x ^= x >>> 17; x ^= x << 5; x >>>= 0;
    out[i] = x;
  }
  return out;
}
const digest = (buffer) => crypto.createHash('sha256').update(buffer).digest('hex').slice(0, 16);

// Echo for as long as the client writes (half-close), on `port`; http on `port + 1`.
function serve(ready) {
  const echo = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('data', (data) => { if (!socket.write(data)) { socket.pause(); socket.once('drain', () => socket.resume()); } });
    socket.on('end', () => socket.end());
    socket.on('error', (error) => { if (error.code !== 'ECONNRESET') say('server error', error.code); });
  });
  const web = http.createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      const body = Buffer.concat(parts);
      if (request.url === '/chunks') {
        for (let i = 0; i < 50; i++) response.write(bytes(3000, i + 1));
        response.end();
      } else if (request.url.startsWith('/bytes/')) {
        response.end(bytes(Number(request.url.slice(7)), 5));
      } else {
        response.setHeader('x-method', request.method);
        response.end(`${body.length} ${digest(body)}`);
      }
    });
  });
  echo.listen(port, '127.0.0.1', () => web.listen(port + 1, '127.0.0.1', ready));
  return () => { echo.close(); web.close(); };
}

function echoOnce(size, seed) {
  return new Promise((resolve, reject) => {
    const sent = bytes(size, seed);
    const got = [];
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => socket.end(sent));
    socket.on('data', (part) => got.push(part));
    socket.on('end', () => resolve(`${digest(Buffer.concat(got)) === digest(sent)} ${Buffer.concat(got).length}`));
    socket.on('error', reject);
  });
}

function request(options, body) {
  return new Promise((resolve, reject) => {
    const call = http.request({ host: '127.0.0.1', port: port + 1, ...options }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => resolve({ status: response.statusCode, body: Buffer.concat(parts), reused: call.reusedSocket }));
      response.on('error', reject);
    });
    call.on('error', reject);
    call.end(body);
  });
}

function failure(target) {
  return new Promise((resolve) => {
    const socket = net.connect({ port: target, host: '127.0.0.1' }, () => { socket.destroy(); resolve('connected'); });
    socket.on('error', (error) => resolve(`${error.code} ${error.syscall}`));
  });
}

function destroyed() {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: '127.0.0.1' }, () => { socket.write('x'.repeat(1000)); socket.destroy(); });
    socket.on('close', (failed) => resolve(`closed ${failed}`));
  });
}

function idle() {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: '127.0.0.1' });
    socket.setTimeout(300, () => { resolve('timeout'); socket.destroy(); });
  });
}

async function client() {
  const cases = {
    'echo of a few bytes': () => echoOnce(10, 1),
    'echo of megabytes': () => echoOnce(4 << 20, 2),
    'nothing but a half-close': () => echoOnce(0, 3),
    '50 connections at once': async () => (await Promise.all([...Array(50).keys()].map((n) => echoOnce(20_000 + n, n + 1)))).join(),
    'http GET': async () => { const r = await request({ path: '/bytes/100000' }); return `${r.status} ${digest(r.body)}`; },
    'http chunks': async () => { const r = await request({ path: '/chunks' }); return `${r.status} ${r.body.length} ${digest(r.body)}`; },
    'http POST': async () => { const r = await request({ path: '/', method: 'POST' }, bytes(3 << 20, 9)); return `${r.status} ${r.body}`; },
    'http keep-alive': async () => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      let reused = 0;
      for (let i = 0; i < 100; i++) reused += (await request({ path: '/bytes/500', agent })).reused ? 1 : 0;
      agent.destroy();
      return `${reused} reused`;
    },
    'http, 40 at once': async () => (await Promise.all([...Array(40).keys()].map((n) => request({ path: `/bytes/${n * 1000}` }))))
      .map((r) => r.body.length).join(),
    'a port where nobody listens': () => failure(1),
    'destroy': destroyed,
    'timeout': idle,
  };
  for (const [name, run] of Object.entries(cases)) {
    let seen;
    try { seen = await run(); } catch (error) { seen = `FAILED ${error.code || error.stack}`; }
    say(JSON.stringify({ name, seen }));
  }
}

if (role === 'server') serve(() => say('ready'));
else if (role === 'client') client();
else { const stop = serve(async () => { await client(); stop(); }); }
