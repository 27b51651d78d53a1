//! Checksummed traffic between the guests, in both directions, for as long as a test wants it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{PATIENCE, With, peer_command};
use crate::guest::{Guest, Remote, port};

/// Between two looks at counters.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections from guest a to guest b, each of which carries as much as it can in both directions.
pub struct Transfer {
    /// In guest a.
    pub client: Remote,
    /// In guest b.
    pub server: Remote,
    /// Where the server listens.
    pub port: u16,
}

/// The library's counters of both sides, added up.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Carriers that broke.
    pub lost: u64,
    /// Queue pairs that took over.
    pub resumed: u64,
    /// Bytes that each side received: the client, the server.
    pub received: [u64; 2],
}

impl Transfer {
    /// Begins.
    pub fn start(connections: u32, seed: u64) -> Transfer {
        let (here, there, port) = (Guest::local(), Guest::peer(), port());
        let at = format!("{}:{port}", there.address(0));
        let start = |guest: Guest, role: &str, way: &str| {
            let mut program = peer_command(role, With::Library);
            program.args([way, &at, "--open", "--seed", &seed.to_string()]);
            program.args(["--conns", &connections.to_string(), "--deadline", "3000"]);
            // For whoever has to find out what went wrong.
            program.env("NACC_LOG", "info");
            guest.spawn(&program)
        };
        let server = start(there, "stream-server", "--listen");
        server.wait_for(|line| line == "listening");
        let client = start(here, "stream-client", "--connect");
        let transfer = Transfer {
            client,
            server,
            port,
        };
        transfer.wait_for_more(1 << 20);
        transfer
    }

    /// What has been counted so far.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for (side, program) in [&self.client, &self.server].into_iter().enumerate() {
            let Some(counters) = program.counters() else {
                panic!("without the library there is nothing to see here");
            };
            tally.lost += counters.get("carriers_lost");
            tally.resumed += counters.get("carriers_resumed");
            tally.received[side] = counters.get("rx_bytes");
        }
        tally
    }

    /// Waits until the counters are as `wanted` says.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&Tally) -> bool) -> Tally {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let tally = self.tally();
            if wanted(&tally) {
                return tally;
            }
            assert!(Instant::now() < deadline, "{what}: not seen: {tally:?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until both sides have received `bytes` more: the traffic goes on.
    pub fn wait_for_more(&self, bytes: u64) -> Tally {
        let before = self.tally().received;
        self.wait_until("more traffic", |now| {
            let [client, server] = now.received;
            client >= before[0] + bytes && server >= before[1] + bytes
        })
    }

    /// A side that has received enough: nothing more is sent to it.
    pub fn has_enough(&self, guest: Guest) {
        match guest == Guest::local() {
            true => self.server.release(),
            false => self.client.release(),
        }
    }

    /// Ends it: every byte that was sent has been received, once and in order. How many there were for the client
    /// and for the server.
    pub fn finish(self) -> [u64; 2] {
        for program in [&self.client, &self.server] {
            program.release();
        }
        let verdicts: [Value; 2] = [self.client.verdict(), self.server.verdict()];
        for verdict in &verdicts {
            assert_eq!(verdict["ok"], true, "{verdicts:#?}");
            assert_eq!(verdict["ended"], verdict["connections"], "{verdicts:#?}");
        }
        for (sent, received) in [("sent", "received"), ("sent_crc", "received_crc")] {
            assert_eq!(verdicts[0][sent], verdicts[1][received], "{verdicts:#?}");
            assert_eq!(verdicts[1][sent], verdicts[0][received], "{verdicts:#?}");
        }
        for program in [&self.client, &self.server] {
            program.success();
        }
        verdicts.map(|verdict| verdict["received"].as_u64().expect("a number"))
    }
}
