//! What the process knows: the scenario's names, and what a step observed.

use netacc_differential::constants;
use netacc_differential::lang::Call;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard};

/// A result, or what is wrong with the scenario.
pub type Res<T> = Result<T, String>;

/// Names belong to the actor that bound them.
type Key = (String, String);

/// What lasts from step to step.
#[derive(Default)]
pub struct World {
    fds: HashMap<Key, i32>,
    streams: HashMap<Key, usize>,
    /// How much of its pattern each socket has sent.
    sent: HashMap<Key, u64>,
    /// The names that epoll sets know, by the number that stands for them.
    tags: Vec<String>,
}

static WORLD: Mutex<Option<World>> = Mutex::new(None);

/// A socket or a port of the scenario, as the runner told it.
#[derive(Clone, Copy)]
pub struct Place {
    pub port: u16,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// Its socket takes IPv4 only.
    pub only_v4: bool,
}

/// One step: who makes the call, and what its names mean.
pub struct Ctx {
    pub actor: String,
    pub call: Call,
    places: HashMap<String, Place>,
}

/// What a call returned, and what can be seen of it besides.
#[derive(Default)]
pub struct Out {
    pub ret: i64,
    errno: i32,
    /// Shown after the result.
    pub extra: String,
    /// What `loose` reduces to its sign, if not the result.
    pub value: Option<i64>,
    /// Descriptors for the names on the left, if not the result.
    pub fds: Vec<i32>,
    /// For the runner alone.
    pub side: Vec<String>,
}

impl Out {
    /// A call's return value; errno is taken if it is -1.
    pub fn of(ret: i64) -> Out {
        let errno = std::io::Error::last_os_error().raw_os_error();
        Out {
            ret,
            errno: if ret == -1 { errno.unwrap_or(0) } else { 0 },
            ..Out::default()
        }
    }

    /// Words of ours instead of a number.
    pub fn words(words: impl Into<String>) -> Out {
        Out {
            extra: words.into(),
            ret: i64::MIN,
            ..Out::default()
        }
    }

    /// With something shown after the result.
    pub fn with(mut self, extra: impl Into<String>) -> Out {
        self.extra = extra.into();
        self
    }

    /// With something shown after the result unless the call failed.
    pub fn with_if_ok(self, extra: impl FnOnce() -> String) -> Out {
        if self.ret < 0 {
            self
        } else {
            self.with(extra())
        }
    }

    /// The answer's line.
    pub fn show(&self, ctx: &Ctx) -> String {
        let sign = |n: i64| if n > 0 { ">0" } else { "0" }.to_string();
        let mut words = Vec::new();
        match self.ret {
            i64::MIN => {}
            -1 => words.push(format!("-1 {}", constants::errno(self.errno))),
            ret if ctx.call.loose && self.value.is_none() => words.push(sign(ret)),
            ret => words.push(ret.to_string()),
        }
        match self.value {
            Some(value) if ctx.call.loose => words.push(sign(value)),
            _ if ctx.call.loose => {}
            _ if self.extra.is_empty() => {}
            _ => words.push(self.extra.clone()),
        }
        let mut line = words.join(" ");
        for side in &self.side {
            line.push('\t');
            line.push_str(side);
        }
        // The tabs are told apart by their place: signals are added to the end of the first field.
        line
    }
}

impl Ctx {
    /// A step of the thread `name`; `places` are `NAME=PORT@V4@V6@ONLY_V4`.
    pub fn new<'a>(name: &str, call: Call, places: impl Iterator<Item = &'a str>) -> Res<Ctx> {
        let actor = name.split('.').next().unwrap_or(name).to_string();
        let place = |field: &str| -> Option<(String, Place)> {
            let (name, rest) = field.split_once('=')?;
            let words: Vec<&str> = rest.split('@').collect();
            let place = Place {
                port: words.first()?.parse().ok()?,
                v4: words.get(1)?.parse().ok()?,
                v6: words.get(2)?.parse().ok()?,
                only_v4: *words.get(3)? == "4",
            };
            Some((name.to_string(), place))
        };
        let places = places
            .map(|field| place(field).ok_or_else(|| format!("'{field}' is no place")))
            .collect::<Res<_>>()?;
        Ok(Ctx {
            actor,
            call,
            places,
        })
    }

    /// What lasts, for a moment: never while a call blocks.
    pub fn world(&self) -> Locked {
        let mut guard = WORLD.lock().expect("the world");
        guard.get_or_insert_default();
        Locked(guard)
    }

    fn key(&self, name: &str) -> Key {
        (self.actor.clone(), name.to_string())
    }

    /// Gives the names on the left what the call returned.
    pub fn bind(&self, out: &Out) {
        let alone = [out.ret as i32];
        let fds = if out.fds.is_empty() {
            &alone[..]
        } else {
            &out.fds
        };
        let mut world = self.world();
        for (name, &fd) in self.call.binds.iter().zip(fds) {
            world.get().fds.insert(self.key(name), fd);
            world.get().sent.remove(&self.key(name));
        }
    }

    /// The descriptor called `name`.
    pub fn named(&self, name: &str) -> Res<i32> {
        let fd = self.world().get().fds.get(&self.key(name)).copied();
        fd.ok_or_else(|| format!("'{}' has nothing called '{name}'", self.actor))
    }

    /// A place that the runner told of.
    pub fn place(&self, name: &str) -> Option<Place> {
        self.places.get(name).copied()
    }

    /// The number that stands for `name` in an epoll set.
    pub fn tag(&self, name: &str) -> u64 {
        let mut world = self.world();
        let tags = &mut world.get().tags;
        let at = tags.iter().position(|tag| tag == name);
        at.unwrap_or_else(|| {
            tags.push(name.to_string());
            tags.len() - 1
        }) as u64
    }

    /// And back.
    pub fn tagged(&self, tag: u64) -> String {
        let mut world = self.world();
        let name = world.get().tags.get(tag as usize).cloned();
        name.unwrap_or_else(|| format!("{tag:#x}"))
    }

    /// How much of its pattern the socket called `name` has sent.
    pub fn sent(&self, name: &str) -> u64 {
        self.world()
            .get()
            .sent
            .get(&self.key(name))
            .copied()
            .unwrap_or(0)
    }

    /// It has sent `n` more.
    pub fn add_sent(&self, name: &str, n: u64) {
        *self.world().get().sent.entry(self.key(name)).or_default() += n;
    }

    /// The `FILE *` called `name`.
    pub fn stream(&self, name: &str) -> Res<*mut libc::FILE> {
        let at = self.world().get().streams.get(&self.key(name)).copied();
        at.map(|at| at as *mut libc::FILE)
            .ok_or_else(|| format!("'{}' has no stream '{name}'", self.actor))
    }

    /// Names a `FILE *`.
    pub fn keep_stream(&self, name: &str, file: *mut libc::FILE) {
        self.world()
            .get()
            .streams
            .insert(self.key(name), file as usize);
    }

    /// In a new child, `actor`: it has what its parent has.
    pub fn inherit(&self, actor: &str) {
        let mut world = self.world();
        let world = world.get();
        let mine: Vec<_> = world
            .fds
            .iter()
            .filter(|((owner, _), _)| *owner == self.actor)
            .map(|((_, name), fd)| ((actor.to_string(), name.clone()), *fd))
            .collect();
        world.fds.extend(mine);
    }
}

/// The world while it is locked.
pub struct Locked(MutexGuard<'static, Option<World>>);

impl Locked {
    fn get(&mut self) -> &mut World {
        self.0.get_or_insert_default()
    }
}
