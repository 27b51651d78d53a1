//! Steps that do not touch the streams: questions, readiness, options, descriptors.

use super::{End, Model, Set};

impl Model {
    /// Questions that change nothing.
    pub(super) fn look(&mut self, i: usize) {
        let (fd, actor) = (self.fd(i), self.ends[i].actor);
        let over = self.ends[i].wrote_last && self.ends[i ^ 1].wrote_last;
        let call = self.pick(&[
            "ioctl(IT, FIONREAD)",
            "getsockname(IT)",
            // Known to differ: found.scn.
            if over {
                "getsockname(IT)"
            } else {
                "getpeername(IT)"
            },
            "getsockopt(IT, SOL_SOCKET, SO_ERROR)",
            "fcntl(IT, F_GETFL)",
            "fcntl(IT, F_GETFD)",
            "getsockopt(IT, IPPROTO_TCP, TCP_NODELAY)",
            "getsockopt(IT, SOL_SOCKET, SO_LINGER)",
        ]);
        self.emit([format!("{actor}: {}", call.replace("IT", &fd))]);
    }

    pub(super) fn poll(&mut self) {
        let actor = self.pick(&["a", "b"]);
        let ends: Vec<End> = self
            .ends
            .iter()
            .filter(|end| end.actor == actor)
            .cloned()
            .collect();
        let names: Vec<String> = ends.iter().flat_map(|end| end.names.clone()).collect();
        if names.is_empty() {
            return;
        }
        let call = if self.rng.u32(0..3) == 0 {
            let all = names.join(", ");
            format!("select({{{all}}}, {{{all}}}, {{{all}}}, 0)")
        } else {
            let entries: Vec<String> = names
                .iter()
                .map(|name| {
                    let events =
                        self.pick(&["POLLIN", "POLLOUT", "POLLIN|POLLOUT|POLLRDHUP|POLLPRI", "0"]);
                    format!("{name}: {events}")
                })
                .collect();
            format!("poll({{{}}}, 0)", entries.join(", "))
        };
        self.emit([format!("{actor}: {call}")]);
    }

    pub(super) fn watch(&mut self, i: usize) {
        let (fd, actor) = (self.fd(i), self.ends[i].actor);
        if self.sets.iter().filter(|set| set.actor == actor).count() < 2 && self.rng.u32(0..3) == 0
        {
            let name = self.name("e");
            self.emit([format!("{actor}: {name} = epoll_create1(0)")]);
            self.sets.push(Set {
                actor,
                name,
                members: Vec::new(),
            });
        }
        let events = self.pick(&[
            "EPOLLIN",
            "EPOLLIN|EPOLLOUT",
            "EPOLLIN|EPOLLRDHUP",
            "EPOLLOUT",
            "0",
        ]);
        let mode = self.pick(&["", "", "|EPOLLET", "|EPOLLONESHOT", "|EPOLLET|EPOLLONESHOT"]);
        let mut mine: Vec<&mut Set> = self
            .sets
            .iter_mut()
            .filter(|set| set.actor == actor)
            .collect();
        if mine.is_empty() {
            return;
        }
        let at = self.rng.usize(..mine.len());
        let set = &mut mine[at];
        let is_member = set.members.contains(&fd);
        // Now and then what must be refused.
        let op = match (is_member, self.rng.u32(0..8)) {
            (_, 0) => "ADD",
            (_, 1) => "DEL",
            (true, 2..4) => "DEL",
            (true, _) => "MOD",
            (false, _) => "ADD",
        };
        match op {
            "ADD" if !is_member => set.members.push(fd.clone()),
            "DEL" => set.members.retain(|member| *member != fd),
            _ => {}
        }
        let line = match op {
            "DEL" => format!("{actor}: epoll_ctl({}, DEL, {fd})", set.name),
            op => format!(
                "{actor}: epoll_ctl({}, {op}, {fd}, {events}{mode})",
                set.name
            ),
        };
        self.emit([line]);
    }

    pub(super) fn wait(&mut self) {
        if self.sets.is_empty() {
            return;
        }
        let set = &self.sets[self.rng.usize(..self.sets.len())];
        let line = format!("{}: epoll_wait({}, 16, 0)", set.actor, set.name);
        self.emit([line]);
    }

    pub(super) fn dup(&mut self, i: usize) {
        let (fd, actor, name) = (self.fd(i), self.ends[i].actor, self.name("d"));
        self.emit([format!("{actor}: {name} = dup({fd})")]);
        self.ends[i].names.push(name);
    }

    pub(super) fn option(&mut self, i: usize) {
        let (fd, actor) = (self.fd(i), self.ends[i].actor);
        let call = self.pick(&[
            "setsockopt(IT, IPPROTO_TCP, TCP_NODELAY, 1)",
            "setsockopt(IT, SOL_SOCKET, SO_KEEPALIVE, 1)",
            "setsockopt(IT, IPPROTO_TCP, TCP_QUICKACK, 1)",
            "setsockopt(IT, SOL_SOCKET, SO_RCVTIMEO, 30)",
            "fcntl(IT, F_SETFL, O_NONBLOCK)",
            "ioctl(IT, FIONBIO, 0)",
            "setsockopt(IT, SOL_SOCKET, SO_TYPE, 1)",
            "setsockopt(IT, SOL_SOCKET, SO_REUSEADDR, 1, 2)",
        ]);
        // With a timeout nothing blocks for long either.
        if call.contains("F_SETFL") || call.contains("RCVTIMEO") {
            self.ends[i].nonblocking = true;
        }
        self.emit([format!("{actor}: {}", call.replace("IT", &fd))]);
    }
}
