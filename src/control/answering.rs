//! What a hello is answered with: which fabric, or why none.

use super::cache;
use super::contact::terms;
use super::crowd::Origin;
use super::identity::random;
use super::io_thread::{Control, Source};
use super::server::Promise;
use super::session::Session;
use super::wire::{Answer, CAPABILITIES, Hello, OLDEST, VERSION, Verdict};
use crate::contain;
use crate::fabric::FabricKind;
use crate::fabric::shm::Shm;
use crate::link::{Link, Token};
use crate::real::sys::{Errno, now_ns};
use crate::socket::addr::Address;
use crate::stats;

/// Links that peers made and do not use yet; more are turned away.
const MOST_UNUSED: usize = 256;
/// Links that were promised and not fetched yet, likewise.
const MOST_PROMISED: usize = 256;
/// Links that peers of one address may have made here, likewise: each process of a host has its own.
const MOST_OF_HOST: usize = 4096;

impl Control {
    /// The answer to a hello that can have no other.
    pub(super) fn excuse(&self, hello: &Hello) -> Answer {
        Answer {
            version: hello.newest.min(VERSION),
            verdict: Verdict::Resources,
            fabric: 0,
            capabilities: hello.capabilities & self.runtime.capabilities(),
            window: self.runtime.config.window_size as u64,
            pid: std::process::id(),
            token: random(),
            rendezvous: self.runtime.identity.rendezvous,
            doors: Vec::new(),
        }
    }

    /// The answer to a hello that came from `remote` to our address `local`.
    pub(super) fn answer(
        &mut self,
        hello: &Hello,
        local: Option<Address>,
        remote: &Address,
    ) -> Answer {
        stats::add(&stats::global().hellos_received, 1);
        let runtime = self.runtime;
        let mut answer = Answer {
            verdict: Verdict::Yes,
            ..self.excuse(hello)
        };
        if hello.oldest > VERSION || hello.newest < OLDEST {
            answer.verdict = Verdict::Version;
            return answer;
        }
        let offset = runtime.config.side_port_offset;
        let port = local.map_or(0, |side| side.port().wrapping_sub(offset));
        let takes = runtime.config.accelerates(remote.to_std().ip(), port);
        if !takes || contain::has_given_up() {
            answer.verdict = Verdict::Plain;
            return answer;
        }
        if crate::memory::is_short() {
            answer.verdict = Verdict::Resources;
            return answer;
        }
        let verbs = hello.fabrics.contains(&(FabricKind::Verbs as u8));
        let doors = match (self.rdma(), local) {
            (Some(rdma), Some(local)) if verbs => rdma.doors(&local),
            _ => Vec::new(),
        };
        let itself = hello.process == runtime.identity.process;
        if itself && !self.makes_contact_from(remote) {
            // Whoever was sent a hello knows how this process is called there.
            stats::add(&stats::global().hellos_rejected, 1);
            answer.verdict = Verdict::Plain;
            return answer;
        }
        let Some(kind) = self.choose(hello, !doors.is_empty()) else {
            let route = verbs != self.rdma.is_some() || verbs && doors.is_empty();
            answer.verdict = match route {
                true => Verdict::Route,
                false => Verdict::Fabric,
            };
            return answer;
        };
        answer.fabric = kind as u8;
        match kind {
            FabricKind::Loop => {
                if self.make_loop(answer.token).is_err() {
                    answer.verdict = Verdict::Resources;
                }
            }
            FabricKind::Shm if self.promised.len() >= MOST_PROMISED => {
                answer.verdict = Verdict::Resources;
            }
            FabricKind::Shm => {
                let deadline = now_ns() + runtime.connect_timeout().as_nanos() as u64;
                let promise = Promise {
                    peer_window: hello.window,
                    peer_pid: hello.pid,
                    capabilities: answer.capabilities,
                    deadline,
                };
                self.promised.insert(answer.token, promise);
            }
            FabricKind::Verbs | FabricKind::Tcp => {
                let unused = |session: &&mut Session| session.awaits_carrier();
                let origin = Some(Origin::of(remote));
                let from_there = |session: &&mut Session| session.comes_from() == origin;
                if self.sessions_mut().filter(unused).count() >= MOST_UNUSED
                    || self.sessions_mut().filter(from_there).count() >= MOST_OF_HOST
                {
                    answer.verdict = Verdict::Resources;
                } else if kind == FabricKind::Verbs {
                    answer.doors = doors;
                }
            }
        }
        answer
    }

    /// Whether the other end of a connection from `remote` is a contact that this process makes.
    fn makes_contact_from(&self, remote: &Address) -> bool {
        let remote = cache::key(remote);
        let is_it = |source: &Source| match source {
            Source::Contact(contact) => contact.is_from(&remote),
            _ => false,
        };
        self.sources.values().any(is_it)
    }

    /// The first of the fabrics that a hello offers which will do for this peer.
    fn choose(&self, hello: &Hello, reachable: bool) -> Option<FabricKind> {
        let identity = &self.runtime.identity;
        let same_process = hello.process == identity.process;
        let same_host = hello.host.same_as(&identity.host);
        let serves = |kind: FabricKind| match kind {
            FabricKind::Loop => same_process,
            FabricKind::Shm => same_host && !same_process,
            FabricKind::Verbs => reachable && !same_process,
            FabricKind::Tcp => !same_process,
        };
        let ours = &self.runtime.config.fabrics;
        let offered = hello.fabrics.iter().copied();
        offered
            .filter_map(FabricKind::from_code)
            .find(|kind| ours.contains(&kind.name()) && serves(*kind))
    }

    fn make_loop(&mut self, token: Token) -> Result<(), Errno> {
        let (connector, acceptor) = Shm::pair(self.runtime.config.ring_size)?;
        let (pid, uid) = (std::process::id(), rustix::process::geteuid().as_raw());
        let terms = terms(
            self.runtime,
            token,
            self.runtime.config.window_size as u64,
            pid,
            uid,
            CAPABILITIES,
            self.runtime.identity.rendezvous,
        );
        let own = Link::new(Box::new(connector), terms);
        let accepted = Link::new(Box::new(acceptor), terms);
        for link in [&own, &accepted] {
            self.runtime.serve(link, 0);
        }
        self.own_ends.insert(token, own);
        self.runtime.accept_on(&accepted);
        Ok(())
    }
}
