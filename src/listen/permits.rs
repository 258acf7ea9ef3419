//! A bound on how many of something exist at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many may be taken.
#[derive(Debug)]
pub struct Permits {
    max: AtomicUsize,
    taken: AtomicUsize,
}

/// Some that are taken, until this is dropped.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    amount: AtomicUsize,
}

impl Permits {
    /// `max` at once.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Permits { max: AtomicUsize::new(max), taken: AtomicUsize::new(0) })
    }

    /// One, if one is left.
    pub fn take(self: &Arc<Self>) -> Option<Permit> {
        self.take_many(1)
    }

    /// This many, if as many are left.
    pub fn take_many(self: &Arc<Self>, amount: usize) -> Option<Permit> {
        self.count(amount).then(|| Permit { permits: self.clone(), amount: AtomicUsize::new(amount) })
    }

    /// Whether as many were left; they are taken then.
    fn count(&self, amount: usize) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let fits = |taken: usize| taken.checked_add(amount).filter(|&sum| sum <= max);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// From now on `max` at once. What is taken stays taken.
    pub fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// How many there may be.
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

impl Permit {
    /// This many more, if as many are left.
    pub fn grow(&self, amount: usize) -> bool {
        let grows = self.permits.count(amount);
        if grows {
            self.amount.fetch_add(amount, Ordering::AcqRel);
        }
        grows
    }

    /// As many more as make this many of it, if as many are left.
    pub fn grow_to(&self, amount: usize) -> bool {
        let more = amount.saturating_sub(self.amount.load(Ordering::Acquire));
        more == 0 || self.grow(more)
    }

    /// Gives back what is over this many.
    pub fn shrink_to(&self, amount: usize) {
        let before = self.amount.fetch_min(amount, Ordering::AcqRel);
        self.permits.taken.fetch_sub(before.saturating_sub(amount), Ordering::AcqRel);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.taken.fetch_sub(*self.amount.get_mut(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let permits = Permits::new(3);
        let two = permits.take_many(2).unwrap();
        let one = permits.take().unwrap();
        assert!(permits.take().is_none());
        assert!(permits.take_many(usize::MAX).is_none());
        drop(two);
        assert_eq!(permits.taken(), 1);
        assert!(permits.take_many(3).is_none());
        assert!(one.grow(2) && !one.grow(1));
        assert_eq!(permits.taken(), 3);
        one.shrink_to(2);
        assert_eq!(permits.taken(), 2);
        assert!(one.grow_to(1) && one.grow_to(3) && !one.grow_to(4));
        assert_eq!(permits.taken(), 3);
        permits.resize(2);
        drop(one);
        assert!(permits.take_many(3).is_none() && permits.take_many(2).is_some());
    }
}
