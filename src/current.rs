//! What is valid now, and may be replaced while others use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use parking_lot::RwLock;

/// A value that is replaced as a whole: whoever has got it keeps it, unchanged.
#[derive(Debug)]
pub struct Current<T> {
    value: RwLock<Arc<T>>,
    /// Where the value is, to be compared only: who asks again need not write the lock and the count of the [`Arc`], for
    /// which threads wait for each other.
    place: AtomicPtr<T>,
}

impl<T> Current<T> {
    /// This one, until it is replaced.
    pub fn new(value: T) -> Arc<Self> {
        let value = Arc::new(value);
        Arc::new(Current { place: AtomicPtr::new(place(&value)), value: RwLock::new(value) })
    }

    /// The one that is valid now.
    pub fn get(&self) -> Arc<T> {
        self.value.read().clone()
    }

    /// The one that is valid now in the place of one that was got before. A value that is held keeps its place, so
    /// another one has another.
    pub fn renew(&self, held: &mut Arc<T>) {
        if self.place.load(Ordering::Acquire) != place(held) {
            *held = self.get();
        }
    }

    /// For everybody who asks from now on.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        let mut current = self.value.write();
        self.place.store(place(&value), Ordering::Release);
        *current = value;
    }
}

fn place<T>(value: &Arc<T>) -> *mut T {
    Arc::as_ptr(value).cast_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_renewed_when_it_was_replaced() {
        let current = Current::new(1);
        let mut held = current.get();
        let first = held.clone();
        current.renew(&mut held);
        assert!(Arc::ptr_eq(&held, &first));
        current.set(2);
        assert_eq!((*held, *current.get()), (1, 2));
        current.renew(&mut held);
        assert_eq!(*held, 2);
        // An equal one is another one, too.
        current.set(2);
        let second = held.clone();
        current.renew(&mut held);
        assert!(!Arc::ptr_eq(&held, &second));
    }
}
