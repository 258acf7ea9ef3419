//! `openexec top`: what a running server does, in a terminal, for whoever is on its machine or in its pod.

mod look;
mod screen;
mod series;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::look::Look;
use self::screen::Screen;
use super::admin_client::{AdminAddress, AdminClient};
use super::{USAGE, fail};

/// Which server, and how often.
#[derive(Args)]
pub(super) struct Top {
    #[command(flatten)]
    admin: AdminAddress,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
}

/// How long a key may wait for its effect.
const REACTION: Duration = Duration::from_millis(50);

impl Top {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return fail("`top` needs a terminal; /metrics has the same as text", USAGE);
        }
        let admin = match self.admin.client(config) {
            Ok(admin) => admin,
            Err(error) => return fail(&error, error.exit_code()),
        };
        let mut screen = Screen::new(admin.address());
        let (looks, looked) = channel();
        let interval = Duration::from_secs(self.interval);
        // Whoever looks may have to wait; whoever types must not.
        std::thread::spawn(move || keep_looking(&admin, interval, &looks));
        let ended = serve(&mut ratatui::init(), &mut screen, &looked);
        ratatui::restore();
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(format!("the terminal: {error}"), 74),
        }
    }
}

fn keep_looking(admin: &AdminClient, interval: Duration, looks: &Sender<Look>) {
    loop {
        let began = Instant::now();
        if looks.send(Look::take(admin)).is_err() {
            return;
        }
        std::thread::sleep(interval.saturating_sub(began.elapsed()));
    }
}

fn serve(terminal: &mut DefaultTerminal, screen: &mut Screen, looked: &Receiver<Look>) -> io::Result<()> {
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        match looked.recv_timeout(REACTION) {
            Ok(look) => screen.see(look),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("nobody looks any more")),
        }
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && ends(key, screen)
            {
                return Ok(());
            }
        }
    }
}

fn ends(key: KeyEvent, screen: &mut Screen) -> bool {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('p') | KeyCode::Char(' ') => screen.pause(),
        KeyCode::Char('u') => screen.only_unknown(),
        KeyCode::Down | KeyCode::Char('j') => screen.scroll(1),
        KeyCode::Up | KeyCode::Char('k') => screen.scroll(-1),
        _ => {}
    }
    false
}
