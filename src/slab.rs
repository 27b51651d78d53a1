//! Objects that are reused but never freed.
//!
//! A descriptor look-up must be safe against a `close` in another thread without a reference count
//! on the data path. So the objects behind descriptors stay valid memory for the life of the
//! process: a late reader locks one, sees that it is somebody else's now, and goes away.

use parking_lot::Mutex;

use crate::sync;

/// A free list of `&'static T`.
pub struct Slab<T: 'static> {
    free: Mutex<Vec<&'static T>>,
    all: Mutex<Vec<&'static T>>,
}

impl<T: Sync> Slab<T> {
    /// An empty slab.
    pub const fn new() -> Self {
        Slab {
            free: Mutex::new(Vec::new()),
            all: Mutex::new(Vec::new()),
        }
    }

    /// A free object, or a new one made by `make`. The caller resets it.
    pub fn take(&self, make: impl FnOnce() -> T) -> &'static T {
        self.pop().unwrap_or_else(|| {
            let object: &'static T = Box::leak(Box::new(make()));
            self.all.lock().push(object);
            object
        })
    }

    /// Every object that there is, free or not.
    pub fn all(&self) -> Vec<&'static T> {
        self.all.lock().clone()
    }

    /// A free object, if there is one.
    pub fn pop(&self) -> Option<&'static T> {
        self.free.lock().pop()
    }

    /// Gives an object back. Late readers may still look at it.
    pub fn put(&self, object: &'static T) {
        self.free.lock().push(object);
    }

    /// Forgets all free objects without taking the lock: for a forked child, where another thread
    /// of the parent may have held it.
    ///
    /// # Safety
    /// No other thread may use the slab.
    pub unsafe fn reset_after_fork(&self) {
        // SAFETY: by the contract nobody else is here.
        unsafe {
            sync::empty(&self.free);
            sync::empty(&self.all);
        }
    }
}

impl<T: Sync> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}
