//! A server that ends with the process that started it, in whatever way that ends, and leaves no file.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longer than anything takes that works: crash recovery on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell between this process and the server, which owns the server's directory. Its standard input is a pipe that only
/// this process holds: when that is closed the shell kills the server and removes the directory. `PR_SET_PDEATHSIG` was
/// rejected: it tells of the death of a thread, and neither reaches the server's children nor removes a file.
///
/// It has a session of its own. What ends a test by its group or from the keyboard does not reach it; and in the same
/// session, though in another group, the system would end it with this process: by a SIGHUP, because one of its group, the
/// server, is stopped.
///
/// The directory is in /tmp and not where `TMPDIR` says: the server's user must reach it, and the path of a socket is
/// short. PostgreSQL's shared memory has a segment of System V, which outlives a kill; its id is in postmaster.pid.
const SCRIPT: &str = r#"
directory=$(mktemp -d /tmp/openexec-test.XXXXXX) || exit
[ -z "$1" ] || chown "$1:" "$directory"
exec 2>>"$directory/log"
trap : PIPE
echo "$directory"
server=

# Whether one of these runs. A zombie waits for its new parent, and holds nothing.
alive() {
    for process; do
        ! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$process/status" || return 0
    done
    return 1
}

end() {
    [ -n "$server" ] || return 0
    kill -STOP "$server"
    children=$(pgrep -P "$server")
    kill -KILL "$server" $children
    wait "$server"
    while alive $children; do sleep 0.01; done
    server=
}

while read -r word rest; do
    case $word in
    run)
        end
        eval "exec $rest" </dev/null >>"$directory/log" 2>&1 &
        server=$!
        echo "$server"
        ;;
    signal)
        # A parent that is stopped has no more children.
        kill "-$rest" "$server"
        kill "-$rest" $(pgrep -P "$server")
        echo done
        ;;
    interrupt)
        kill -INT "$server"
        echo done
        ;;
    kill)
        end
        echo done
        ;;
    esac
done
end
lock=$directory/data/postmaster.pid
[ ! -e "$lock" ] || ipcrm -m "$(sed -n '7s/.* //p' "$lock")"
# What made files there for this process, as initdb does, may still do so. It fails and ends now.
until rm -rf "$directory"; do sleep 0.1; done
"#;

/// See [`SCRIPT`].
pub struct Watchdog {
    shell: Child,
    pipes: Mutex<Option<Pipes>>,
    directory: PathBuf,
}

struct Pipes {
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Watchdog {
    /// With a new directory, and no server yet.
    pub fn start() -> Self {
        let mut shell = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "watchdog", if is_root() { USER } else { "" }])
            .current_dir("/")
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = shell.stdin.take().unwrap();
        let mut answers = BufReader::new(shell.stdout.take().unwrap());
        let mut directory = String::new();
        answers.read_line(&mut directory).unwrap();
        assert!(directory.starts_with('/'), "a directory below /tmp could not be made");
        let directory = PathBuf::from(directory.trim_end());
        Watchdog { shell, pipes: Mutex::new(Some(Pipes { commands, answers })), directory }
    }

    /// Where the server has its files, which is its user's.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the server wrote to its standard output and error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.join("log")).unwrap()).into_owned()
    }

    /// Starts it, as its user, and returns its process id. One that runs is killed first.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> u32 {
        let words = as_server(program);
        let words = words.iter().map(String::as_str).chain(arguments.iter().copied());
        let quoted: Vec<_> = words.map(|word| format!("'{word}'")).collect();
        self.tell(&format!("run {}", quoted.join(" "))).parse().unwrap()
    }

    /// To the server and its children.
    pub fn signal(&self, name: &str) {
        self.tell(&format!("signal {name}"));
    }

    /// To the server alone.
    pub fn interrupt(&self) {
        self.tell("interrupt");
    }

    /// SIGKILL to the server and its children. Returns when they are gone, also when there were none.
    pub fn kill(&self) {
        self.tell("kill");
    }

    fn tell(&self, command: &str) -> String {
        let mut pipes = self.pipes.lock().unwrap();
        let pipes = pipes.as_mut().expect("is there until it is dropped");
        writeln!(pipes.commands, "{command}").unwrap();
        let mut answer = String::new();
        pipes.answers.read_line(&mut answer).unwrap();
        assert!(answer.ends_with('\n'), "the watchdog of {} is gone", self.directory.display());
        answer.trim_end().to_owned()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipes.get_mut().map(Option::take));
        let _ = self.shell.wait();
    }
}

/// Whom Debian's package of PostgreSQL makes. Neither server runs as root.
const USER: &str = "postgres";
/// Not all of them are in the path of everybody.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// How the program is called as the servers' user.
fn as_server(program: &Path) -> Vec<String> {
    let change: &[&str] =
        if is_root() { &["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"] } else { &[] };
    let program = program.to_str().unwrap();
    change.iter().copied().chain([program]).map(str::to_owned).collect()
}

/// A command of the servers' user in that directory, in an environment of its own: this one's may say where a database
/// is. Panics with what it wrote to its standard error if it fails.
pub fn run_as_server(directory: &Path, program: &Path, arguments: &[&str], input: &str) -> String {
    let words = as_server(program);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(arguments).current_dir(directory);
    run(command.env_clear().env("PATH", PATH).env("TZ", "UTC"), input)
}

/// Returns the standard output.
pub fn run(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Asks again and again, and panics if it never holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the process runs: a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The server's files are its user's, and nobody else reads them.
pub fn write_as_server(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let directory = std::fs::metadata(path.parent().unwrap()).unwrap();
    std::os::unix::fs::chown(path, Some(directory.uid()), Some(directory.gid())).unwrap();
    run(Command::new("chmod").arg(OsStr::new("600")).arg(path), "");
}
