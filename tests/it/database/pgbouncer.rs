//! PgBouncer, which lends a few connections to many clients, one transaction at a time.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::watchdog::{Watchdog, is_alive, run, wait_until, write_as_server};
use super::{Postgres, next_port, url};

/// In transaction mode, with four connections for each role and database.
pub struct PgBouncer {
    watchdog: Watchdog,
    port: u16,
}

impl PgBouncer {
    /// Before that server and all of its databases.
    pub fn start(of: &Postgres) -> Self {
        let watchdog = Watchdog::start();
        let directory = watchdog.directory();
        // Its user need not be able to read the directory of the checkout.
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/pgbouncer");
        assert!(tool.exists(), "{} is missing: run `make tools`", tool.display());
        let program = directory.join("pgbouncer");
        run(Command::new("cp").arg("-L").arg(&tool).arg(&program), "");
        run(Command::new("chmod").arg("755").arg(&program), "");
        write_as_server(&directory.join("users"), "\"openexec\" \"\"\n");
        loop {
            let (logged, port) = (watchdog.log().len(), next_port());
            let config = directory.join("pgbouncer.ini");
            let text = format!(
                "[databases]\n\
                 * = host=127.0.0.1 port={}\n\
                 [pgbouncer]\n\
                 listen_addr = 127.0.0.1\n\
                 listen_port = {port}\n\
                 unix_socket_dir =\n\
                 auth_type = trust\n\
                 auth_file = {}/users\n\
                 pool_mode = transaction\n\
                 default_pool_size = 4\n\
                 max_client_conn = 500\n",
                of.port(),
                directory.display(),
            );
            write_as_server(&config, &text);
            let pid = watchdog.run(&program, &[config.to_str().unwrap()]);
            // It takes connections when it says so; another's port would take them too.
            wait_until("PgBouncer listens", || watchdog.log()[logged..].contains("process up") || !is_alive(pid));
            if is_alive(pid) && TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return PgBouncer { watchdog, port };
            }
            watchdog.kill();
            let log = watchdog.log().split_off(logged);
            assert!(log.contains("ddress already in use"), "PgBouncer does not start: {log}");
        }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of the database `openexec`, as the role `openexec`.
    pub fn url(&self) -> String {
        url(self.port, "openexec")
    }
}
