//! What is valid now, and may be replaced while others use it.

use std::sync::Arc;

use parking_lot::RwLock;

/// A value that is replaced as a whole: whoever has got it keeps it, unchanged.
#[derive(Debug)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// This one, until it is replaced.
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Current(RwLock::new(Arc::new(value))))
    }

    /// The one that is valid now.
    pub fn get(&self) -> Arc<T> {
        self.0.read().clone()
    }

    /// For everybody who asks from now on.
    pub fn set(&self, value: T) {
        *self.0.write() = Arc::new(value);
    }
}
