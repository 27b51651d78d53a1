//! A connect whose connection was taken by another of the processes that share a side port than the one of the link that
//! was named: it goes on by a link with that process.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{Inner, Role, Socket};
use crate::control::cache;
use crate::control::opening::{Opening, Step};
use crate::control::wire::Name;
use crate::link::Link;
use crate::runtime::Runtime;
use crate::stats::Reason;

impl Socket {
    /// The connection was taken by `process`, which does not know the link that was named: opens it on a link with that
    /// one. `Elsewhere`: there is none with room, contact is to be made with it.
    pub(super) fn turn(
        &'static self,
        runtime: &Runtime,
        mut inner: MutexGuard<'static, Inner>,
        opening: &mut Opening,
        process: &Name,
    ) -> (MutexGuard<'static, Inner>, Step) {
        if let Role::Connecting(conn) = &mut inner.role {
            *conn = None;
        }
        inner.users += 1;
        drop(inner);
        if let Some((link, id)) = opening.place.take() {
            // The process that has taken it never knew.
            link.forget(id, true, None, None);
        }
        let key = cache::key(&opening.dest);
        let (links, refused) = {
            let mut cache = runtime.cache.lock();
            cache.answered(&key, true);
            cache.links_to(&key, process)
        };
        let open = |beyond| {
            let open = |link: &Arc<Link>| Some((link.clone(), link.open(self, beyond)?));
            links.iter().find_map(open)
        };
        let place = match opening.may_turn() {
            true => open(false).or_else(|| refused.and_then(|_| open(true))),
            false => None,
        };
        let mut inner = self.lock();
        inner.users -= 1;
        let step = match place {
            Some((link, id)) if inner.goes_on_connecting(opening) && !link.is_dead() => {
                let conn = inner.new_conn(&link, id);
                let window = conn.windows.receiving();
                inner.role = Role::Connecting(Some(conn));
                inner.update_slot();
                opening.turn_to(link, id, window);
                opening.step()
            }
            Some((link, id)) => {
                drop(inner);
                link.forget(id, true, None, None);
                inner = self.lock();
                Step::Failed(Reason::LinkFailed)
            }
            None => match refused {
                Some(reason) => Step::Failed(reason),
                None if opening.may_turn() && opening.meets(process) => Step::Elsewhere(*process),
                None => Step::Failed(Reason::PeerRefused),
            },
        };
        (inner, step)
    }
}

impl Inner {
    /// Whether `opening` is still what its connect is about.
    pub(super) fn goes_on_connecting(&self, opening: &Opening) -> bool {
        let connecting = matches!(self.role, Role::Connecting(_));
        self.life == opening.life && connecting && !self.fds.is_empty()
    }
}
