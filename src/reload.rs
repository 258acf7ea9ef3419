//! Notices that the configuration may have changed: SIGHUP, or a file of it that is another one now.
//!
//! Files are looked at once a second, by name. Watching them by inotify was rejected: Kubernetes replaces a mounted file
//! by moving a link two directories above it, editors write a new one beside it, and network file systems tell nobody.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// How often files are looked at. What changes again within that time is not read before it rests.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches what a configuration is made of.
pub struct Watch {
    files: Box<dyn Fn() -> Vec<PathBuf> + Send>,
    hangup: Signal,
    seen: Vec<Look>,
}

/// What a look at a file shows: another one, or another content, shows something else.
#[derive(PartialEq, Eq)]
enum Look {
    There { device: u64, inode: u64, bytes: u64, modified: (i64, i64), changed: (i64, i64) },
    NotThere(io::ErrorKind),
}

impl Watch {
    /// Of these files, from now on. SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// The signal cannot be handled.
    pub fn start(files: impl Fn() -> Vec<PathBuf> + Send + 'static) -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        Ok(Watch { hangup, seen: looks(&files), files: Box::new(files) })
    }

    /// Ends when the configuration is to be read again.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {
                    self.seen = looks(&self.files);
                    return;
                }
                () = sleep(PERIOD) => {}
            }
            let mut now = looks(&self.files);
            if now == self.seen {
                continue;
            }
            // Several files may be on their way, or one be half written.
            loop {
                sleep(PERIOD).await;
                let later = looks(&self.files);
                if later == now {
                    break;
                }
                now = later;
            }
            self.seen = now;
            return;
        }
    }
}

fn looks(files: impl Fn() -> Vec<PathBuf>) -> Vec<Look> {
    files().iter().map(|file| look(file)).collect()
}

fn look(file: &Path) -> Look {
    match std::fs::metadata(file) {
        Ok(found) => Look::There {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        },
        Err(error) => Look::NotThere(error.kind()),
    }
}
