//! What is seen, as a terminal shows it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, LineGauge, Paragraph, Row, Sparkline, Table, TableState};
use serde_json::Value;

use super::look::{Look, Seen};
use super::series::Series;
use crate::cli::executions;

/// Looks that latencies and rates are made of, and that are drawn.
const KEPT: usize = 120;
/// Looks that a quantile is made of: few, and one slow request is all of it.
const WINDOW: usize = 15;
/// Width of the smallest terminal in which everything has its place.
const NARROW: u16 = 70;

/// See the module.
pub(super) struct Screen {
    address: SocketAddr,
    looks: VecDeque<(Instant, Series)>,
    last: Option<Result<Seen, String>>,
    is_paused: bool,
    only_unknown: bool,
    table: TableState,
}

impl Screen {
    pub(super) fn new(address: SocketAddr) -> Self {
        Screen {
            address,
            looks: VecDeque::new(),
            last: None,
            is_paused: false,
            only_unknown: false,
            table: TableState::default(),
        }
    }

    pub(super) fn see(&mut self, look: Look) {
        if self.is_paused {
            return;
        }
        if let Ok(seen) = &look.seen {
            self.looks.push_back((look.at, seen.series.clone()));
            if self.looks.len() > KEPT {
                self.looks.pop_front();
            }
        }
        self.last = Some(look.seen);
    }

    pub(super) fn pause(&mut self) {
        self.is_paused = !self.is_paused;
    }

    pub(super) fn only_unknown(&mut self) {
        self.only_unknown = !self.only_unknown;
        self.table = TableState::default();
    }

    pub(super) fn scroll(&mut self, by: i16) {
        match by {
            1.. => self.table.scroll_down_by(by.unsigned_abs()),
            _ => self.table.scroll_up_by(by.unsigned_abs()),
        }
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, counts, limits, list, keys] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(7),
            Constraint::Length(5),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.head(frame, head);
        if !self.looks.is_empty() {
            let [verdicts, times] =
                Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(counts);
            self.verdicts(frame, verdicts);
            self.times(frame, times);
            self.limits(frame, limits);
        }
        self.executions(frame, list);
        let help = " q quit   p pause   u unknown only   ↑↓ scroll";
        frame.render_widget(Paragraph::new(help).style(Style::new().dim()), keys);
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut line = vec![Span::from(" OpenExec ").bold(), Span::from(self.address.to_string())];
        let mut state =
            |text: String, color: Color| line.push(Span::styled(format!("  {text}"), Style::new().fg(color).bold()));
        match &self.last {
            None => state("asking ...".to_owned(), Color::Yellow),
            Some(Err(problem)) => state(executions::printable(&Value::from(problem.as_str())), Color::Red),
            Some(Ok(seen)) if seen.reasons.is_empty() => state("ready".to_owned(), Color::Green),
            Some(Ok(seen)) => state(format!("not ready: {}", seen.reasons.join(", ")), Color::Red),
        }
        if self.is_paused {
            state("paused".to_owned(), Color::Yellow);
        }
        if let Some((_, series)) = self.looks.back() {
            let warn = |name: &str, text: &str| (series.get(name) > 0.0).then(|| text.to_owned());
            let unknown = series.get("openexec_unknown_executions");
            let unknown = (unknown > 0.0).then(|| format!("{unknown} unknown"));
            let warnings =
                [unknown, warn("openexec_bypass_found", "bypass found"), warn("openexec_ledger_local", "local ledger")];
            for warning in warnings.into_iter().flatten() {
                state(warning, Color::Magenta);
            }
        }
        frame.render_widget(Paragraph::new(Line::from(line)), area);
    }

    /// Per second, over the last looks.
    fn rate(&self, count: impl Fn(&Series) -> f64) -> f64 {
        let Some((since, seconds)) = self.window(WINDOW) else { return 0.0 };
        count(&since) / seconds
    }

    /// What was counted in the last looks, and how long that took.
    fn window(&self, looks: usize) -> Option<(Series, f64)> {
        let (to, last) = self.looks.back()?;
        let (from, first) = self.looks.get(self.looks.len().saturating_sub(looks + 1))?;
        let seconds = to.duration_since(*from).as_secs_f64();
        (seconds > 0.0).then(|| (last.since(first), seconds))
    }

    fn verdicts(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().title(" verdicts per second ");
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [words, plot] = Layout::vertical([Constraint::Length(3), Constraint::Min(1)]).areas(inner);
        let of = |verdict: &'static str| {
            self.rate(move |since| since.by(VERDICTS, "verdict").get(verdict).copied().unwrap_or_default())
        };
        let top = self.window(WINDOW).map(|(since, _)| refusals(&since)).unwrap_or_default();
        let lines = vec![
            Line::from(vec![
                Span::styled(format!("executed {:<9.1}", of("executed")), Style::new().fg(Color::Green)),
                Span::from(format!("replayed {:<9.1}", of("replayed"))),
            ]),
            Line::from(Span::styled(format!("refused  {:<9.1}", of("refused")), Style::new().fg(Color::Yellow))),
            Line::from(Span::from(top).dim()),
        ];
        frame.render_widget(Paragraph::new(lines), words);
        let heights = self.looks.iter().zip(self.looks.iter().skip(1)).map(|((from, before), (to, after))| {
            let seconds = to.duration_since(*from).as_secs_f64().max(0.001);
            (after.since(before).sum(VERDICTS) / seconds * 10.0) as u64
        });
        let heights: Vec<u64> = heights.collect();
        let shown = heights.len().saturating_sub(usize::from(plot.width));
        frame.render_widget(Sparkline::default().data(&heights[shown..]).style(Style::new().fg(Color::Cyan)), plot);
    }

    fn times(&self, frame: &mut Frame<'_>, area: Rect) {
        let since = self.window(WINDOW).map(|(since, _)| since).unwrap_or_default();
        let row = |name: &str, histogram: &str| {
            let quantiles = [0.5, 0.95, 0.99].map(|quantile| Cell::from(time(since.quantile(histogram, quantile))));
            Row::new([Cell::from(name.to_owned())].into_iter().chain(quantiles))
        };
        let rows = [
            row("gate", "openexec_enforcement_seconds"),
            row("ledger", "openexec_ledger_seconds"),
            row("service", "openexec_upstream_seconds"),
            row("commit", "openexec_ledger_commit_seconds"),
        ];
        let widths = [Constraint::Length(8), Constraint::Length(9), Constraint::Length(9), Constraint::Length(9)];
        let head = Row::new(["", "p50", "p95", "p99"]).style(Style::new().dim());
        frame.render_widget(Table::new(rows, widths).header(head).block(Block::bordered().title(" time ")), area);
    }

    /// What is taken of what there may be.
    fn limits(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some((_, series)) = self.looks.back() else { return };
        let block = Block::bordered().title(" limits ");
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let lines = Layout::vertical([Constraint::Length(1); 3]).split(inner);
        for ((name, metric, unit), line) in LIMITS.iter().zip(lines.iter()) {
            let (taken, limit) = (series.get(metric), series.get(&format!("{metric}_limit")));
            let share = if limit > 0.0 { (taken / limit).clamp(0.0, 1.0) } else { 0.0 };
            let color = match share {
                _ if share >= 0.9 => Color::Red,
                _ if share >= 0.7 => Color::Yellow,
                _ => Color::Green,
            };
            let label = format!("{name:<11} {:>9} of {:<9}", amount(taken, *unit), amount(limit, *unit));
            let gauge = LineGauge::default().ratio(share).label(label).filled_style(Style::new().fg(color));
            frame.render_widget(gauge, *line);
        }
    }

    fn executions(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let block = Block::bordered().title(if self.only_unknown { " unknown executions " } else { " executions " });
        let rows = match &self.last {
            Some(Ok(Seen { executions: Ok(rows), .. })) => rows,
            Some(Ok(Seen { executions: Err(problem), .. })) => {
                return frame
                    .render_widget(Paragraph::new(problem.as_str()).block(block).style(Style::new().dim()), area);
            }
            _ => return frame.render_widget(block, area),
        };
        let shown: Vec<&Value> = rows.iter().filter(|row| !self.only_unknown || row["state"] == "UNKNOWN").collect();
        if shown.is_empty() {
            return frame.render_widget(Paragraph::new("none").block(block).style(Style::new().dim()), area);
        }
        let is_narrow = area.width < NARROW;
        let rows = shown.into_iter().map(|row| {
            let cell = |name: &str| executions::printable(&row[name]);
            let state = cell("state");
            let color = match state.as_str() {
                "DONE" => Color::Green,
                "UNKNOWN" => Color::Magenta,
                "INTENT" => Color::Cyan,
                _ => Color::Yellow,
            };
            let id = if is_narrow { cell("id").chars().take(13).collect() } else { cell("id") };
            Row::new([
                Cell::from(state).style(Style::new().fg(color)),
                Cell::from(cell("claimed_at").get(11..19).unwrap_or_default().to_owned()),
                Cell::from(cell("action")),
                Cell::from(cell("tenant")),
                Cell::from(id),
            ])
        });
        let widths = [
            Constraint::Length(12),
            Constraint::Length(8),
            Constraint::Fill(2),
            Constraint::Fill(1),
            Constraint::Length(if is_narrow { 13 } else { 36 }),
        ];
        let head = Row::new(["state", "claimed", "action", "tenant", "id"]).style(Style::new().dim());
        let table = Table::new(rows, widths).header(head).block(block);
        let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }
}

const VERDICTS: &str = "openexec_verdicts_total";
const LIMITS: [(&str, &str, Unit); 3] = [
    ("in flight", "openexec_in_flight_executions", Unit::Count),
    ("connections", "openexec_connections", Unit::Count),
    ("buffered", "openexec_buffered_bytes", Unit::Bytes),
];

#[derive(Clone, Copy)]
enum Unit {
    Count,
    Bytes,
}

/// The reasons that were met most.
fn refusals(since: &Series) -> String {
    let reasons = since.by(VERDICTS, "reason");
    let mut reasons: Vec<_> =
        reasons.into_iter().filter(|(reason, count)| !reason.is_empty() && *count > 0.0).collect();
    reasons.sort_by(|a, b| b.1.total_cmp(&a.1));
    reasons.into_iter().take(2).map(|(reason, _)| reason).collect::<Vec<_>>().join(", ")
}

fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

fn amount(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => format!("{value:.0}"),
        Unit::Bytes if value < 1_048_576.0 => format!("{:.0} KiB", value / 1024.0),
        Unit::Bytes => format!("{:.0} MiB", value / 1_048_576.0),
    }
}
