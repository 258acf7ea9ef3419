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
    files: Box<dyn Fn() -> Option<Vec<PathBuf>> + Send>,
    hangup: Signal,
    seen: Seen,
}

/// What the last look at each file showed.
#[derive(Default, PartialEq, Eq)]
struct Seen {
    files: Vec<(PathBuf, Look)>,
    /// Whether these are all of them.
    is_all: bool,
}

/// What a look at a file shows: another one, or another content, shows something else.
#[derive(PartialEq, Eq)]
enum Look {
    There { device: u64, inode: u64, bytes: u64, modified: (i64, i64), changed: (i64, i64) },
    NotThere(io::ErrorKind),
}

impl Watch {
    /// Of these files, from now on: `files` names them, and is asked again when one of them has changed. `None`: they
    /// cannot be known now, and it is asked until they can. SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// The signal cannot be handled.
    pub fn start(files: impl Fn() -> Option<Vec<PathBuf>> + Send + 'static) -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let mut watch = Watch { files: Box::new(files), hangup, seen: Seen::default() };
        watch.seen = watch.look_around();
        Ok(watch)
    }

    /// Ends when the configuration is to be read again.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {
                    self.seen = self.look_around();
                    return;
                }
                () = sleep(PERIOD) => {}
            }
            if self.seen.is_all && self.seen.files.iter().all(|(file, seen)| look(file) == *seen) {
                continue;
            }
            let mut now = self.look_around();
            if now == self.seen {
                continue;
            }
            // Several files may be on their way, or one be half written.
            loop {
                sleep(PERIOD).await;
                let later = self.look_around();
                if later == now {
                    break;
                }
                now = later;
            }
            self.seen = now;
            return;
        }
    }

    /// At all files. They are named again behind it: a file that was replaced after it named the others would else be
    /// known as the new one, and what the new one names not be watched.
    fn look_around(&self) -> Seen {
        let mut names = (self.files)();
        loop {
            let known = || self.seen.files.iter().map(|(file, _)| file.clone()).collect();
            let files = names.clone().unwrap_or_else(known);
            let files = files.into_iter().map(|file| (look(&file), file)).map(|(look, file)| (file, look)).collect();
            let again = (self.files)();
            if again == names {
                return Seen { files, is_all: names.is_some() };
            }
            names = again;
        }
    }
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
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    /// A file that names others, one a line.
    #[tokio::test]
    async fn which_files_there_are_is_asked_again_only_when_one_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        write("main", "");
        let (asked, readable) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let (count, is_readable, main) = (asked.clone(), readable.clone(), path("main"));
        let mut watch = Watch::start(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let named = is_readable.load(Ordering::Relaxed).then(|| fs::read_to_string(&main).unwrap())?;
            Some([main.clone()].into_iter().chain(named.lines().map(|name| main.with_file_name(name))).collect())
        })
        .unwrap();

        let (short, long) = (PERIOD * 5 / 2, Duration::from_secs(30));
        let at_first = asked.load(Ordering::Relaxed);
        assert!(timeout(short, watch.changed()).await.is_err(), "nothing has changed");
        assert_eq!(asked.load(Ordering::Relaxed), at_first);

        write("main", "named\n");
        timeout(long, watch.changed()).await.expect("the file has changed");
        write("named", "is there now");
        timeout(long, watch.changed()).await.expect("a file has changed that is named since");

        readable.store(false, Ordering::Relaxed);
        fs::remove_file(path("named")).unwrap();
        timeout(long, watch.changed()).await.expect("it is gone, though nobody names it");
        assert!(timeout(short, watch.changed()).await.is_err(), "nothing has changed");
        readable.store(true, Ordering::Relaxed);
        timeout(long, watch.changed()).await.expect("what they are is known again");
    }

    /// While the first answer is on its way, the file that names the others is replaced.
    #[test]
    fn what_a_file_names_that_was_just_replaced_is_watched() {
        let directory = tempfile::tempdir().unwrap();
        let (main, named) = (directory.path().join("main"), directory.path().join("named"));
        fs::write(&main, "").unwrap();
        let (reads, of) = (AtomicUsize::new(0), main.clone());
        let files = move || {
            let names = fs::read_to_string(&of).unwrap();
            if reads.fetch_add(1, Ordering::Relaxed) == 0 {
                fs::write(&of, "named").unwrap();
            }
            Some([of.clone()].into_iter().chain(names.lines().map(|name| of.with_file_name(name))).collect())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let watch = runtime.block_on(async { Watch::start(files) }).unwrap();
        let watched: Vec<_> = watch.seen.files.iter().map(|(file, _)| file).collect();
        assert_eq!(watched, [&main, &named]);
    }
}
