//! The lock on one half of a link. A panic under it leaves the half in a state that nobody knows, so that the link is
//! condemned before the next thread gets in.

use core::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

use super::Link;

/// See the module.
pub struct Half<'a, T> {
    link: &'a Link,
    // Dropped last.
    part: MutexGuard<'a, T>,
}

impl<'a, T> Half<'a, T> {
    /// `part` of `link`, as soon as nobody else has it.
    #[inline]
    pub fn new(link: &'a Link, part: &'a Mutex<T>) -> Self {
        let part = part.lock();
        Half { link, part }
    }

    /// The same, unless somebody else has it.
    #[inline]
    pub fn try_new(link: &'a Link, part: &'a Mutex<T>) -> Option<Self> {
        let part = part.try_lock()?;
        Some(Half { link, part })
    }
}

impl<T> Deref for Half<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.part
    }
}

impl<T> DerefMut for Half<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.part
    }
}

impl<T> Drop for Half<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.link.condemn();
        }
    }
}
