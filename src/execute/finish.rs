//! Work that ends whoever waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs in the task of whoever waits, which saves two wake-ups; when that one leaves, it goes on in a task of its own.
pub(super) struct Finish<F: Future<Output: Send + 'static> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send + 'static> + Send + 'static> Finish<F> {
    pub(super) fn new(work: F) -> Self {
        Finish(Some(Box::pin(work)))
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for Finish<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out meanwhile: what panicked is not polled again.
        let mut work = self.0.take().expect("a future is not polled after its end");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for Finish<F> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_ends_whoever_leaves() {
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        let work = Finish::new(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            seen.store(true, Ordering::SeqCst);
        });
        let left = tokio::time::timeout(Duration::from_millis(5), work).await;
        assert!(left.is_err() && !done.load(Ordering::SeqCst));
        while !done.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(Finish::new(async { 1 }).await, 1);
    }
}
