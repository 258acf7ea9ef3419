//! Long work, beside the threads that serve connections: each of these has many, which would all wait for it.
//!
//! A few threads of its own, made at the start: tokio's for what blocks are made when they are asked for, which can fail
//! when there is an outcome to record, and may all be waiting for a disk.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock, mpsc};
use std::{io, thread};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Bytes whose parsing takes as long as some dozen requests.
const MUCH: usize = 64 << 10;

type Work = Box<dyn FnOnce() + Send>;

static QUEUE: OnceLock<mpsc::Sender<Work>> = OnceLock::new();

/// Makes so many threads, once in a process.
///
/// # Errors
/// The system does not give them.
pub(crate) fn start(threads: usize) -> io::Result<()> {
    if QUEUE.get().is_some() {
        return Ok(());
    }
    let (queue, works) = mpsc::channel::<Work>();
    let works = Arc::new(Mutex::new(works));
    for at in 0..threads.max(1) {
        let works = works.clone();
        thread::Builder::new().name(format!("beside-{at}")).spawn(move || {
            // In a statement of its own: the lock must not be held while it works.
            while let Ok(work) = { works.lock().recv() } {
                work();
            }
        })?;
    }
    // Another may have been first: its threads stay, and these end.
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Does work on so many bytes: here if it is little, else beside. A panic is the caller's.
pub(crate) async fn beside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    let Some(queue) = QUEUE.get().filter(|_| bytes >= MUCH) else { return work() };
    let (done, result) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
    // It is no matter whether anybody waits still.
    let work = move || drop(done.send(catch_unwind(AssertUnwindSafe(work))));
    queue.send(Box::new(work)).expect("the threads end with the process");
    match result.await.expect("a panic is sent, too") {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use std::thread::current;

    use super::*;

    #[tokio::test]
    async fn much_work_is_done_beside_and_little_here() {
        start(2).unwrap();
        let here = current().id();
        assert_eq!(beside(MUCH - 1, move || current().id()).await, here);
        assert_ne!(beside(MUCH, move || current().id()).await, here);
        // As often as there are threads, and once more: none of them has ended with it.
        for _ in 0..3 {
            let panicked = tokio::spawn(beside(MUCH, || -> () { panic!("as it would here") })).await;
            assert!(panicked.unwrap_err().is_panic());
        }
        assert_eq!(beside(MUCH, || 1).await, 1);
    }
}
