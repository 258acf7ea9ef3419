//! Notices that the configuration may have changed: SIGHUP, or a file of it that is another one now.
//!
//! Files are looked at once a second, by name. Watching them by inotify was rejected: Kubernetes replaces a mounted file
//! by moving a link two directories above it, editors write a new one beside it, and network file systems tell nobody.
//! Which files there are is asked again only when one of them has changed: it means to read and check the configuration,
//! which each second would be a fiftieth of a core, in every sidecar, for nothing.

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
    seen: Seen,
}

/// The files, and what the last look at each showed.
type Seen = Vec<(PathBuf, Look)>;

/// What a look at a file shows: another one, or another content, shows something else.
#[derive(PartialEq, Eq)]
enum Look {
    There { device: u64, inode: u64, bytes: u64, modified: (i64, i64), changed: (i64, i64) },
    NotThere(io::ErrorKind),
}

impl Watch {
    /// Of these files, from now on: `files` names them, and is asked again when one of them has changed. SIGHUP no longer
    /// ends the process.
    ///
    /// # Errors
    /// The signal cannot be handled.
    pub fn start(files: impl Fn() -> Vec<PathBuf> + Send + 'static) -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        Ok(Watch { hangup, seen: looks(files()), files: Box::new(files) })
    }

    /// Ends when the configuration is to be read again.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {
                    self.seen = looks((self.files)());
                    return;
                }
                () = sleep(PERIOD) => {}
            }
            if self.seen.iter().all(|(file, seen)| look(file) == *seen) {
                continue;
            }
            // Several files may be on their way, or one be half written.
            let mut now = looks((self.files)());
            loop {
                sleep(PERIOD).await;
                let later = looks((self.files)());
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

fn looks(files: Vec<PathBuf>) -> Seen {
    files
        .into_iter()
        .map(|file| {
            let look = look(&file);
            (file, look)
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    /// A file that names others, one a line.
    #[tokio::test]
    async fn which_files_there_are_is_asked_again_only_when_one_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        write("main", "");
        let (asked, main) = (Arc::new(AtomicUsize::new(0)), path("main"));
        let count = asked.clone();
        let mut watch = Watch::start(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let named = fs::read_to_string(&main).unwrap();
            [main.clone()].into_iter().chain(named.lines().map(|name| main.with_file_name(name))).collect()
        })
        .unwrap();

        let rests = timeout(PERIOD * 5 / 2, watch.changed()).await;
        assert!(rests.is_err(), "nothing has changed");
        assert_eq!(asked.load(Ordering::Relaxed), 1);

        let long = Duration::from_secs(30);
        write("main", "named\n");
        timeout(long, watch.changed()).await.expect("the file has changed");
        write("named", "is there now");
        timeout(long, watch.changed()).await.expect("a file has changed that is named since");
        fs::remove_file(path("named")).unwrap();
        timeout(long, watch.changed()).await.expect("it is gone");
    }
}
