//! Keeps this process among the living, and the ledger's picture of the others true: renews the lease, notices a database
//! that is gone or back or another one, and settles what dead replicas left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::acks::Begun;
use super::failover;
use super::failure::Failure;
use super::row::get;
use super::shared::{Shared, Standing};
use super::sql;
use crate::ledger::lease::BootTime;
use crate::ledger::{Lease, LedgerError};

/// Between two beats, unless a lease is shorter than three of them.
const BEAT: Duration = Duration::from_secs(5);
/// Between two attempts to reach a database that is down: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Between two beats, however often somebody asks for one.
const BREATH: Duration = Duration::from_millis(5);
/// How much later than its lease ends a replica is taken for dead.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// For how long a claim that was given up may still arrive in the database.
const STRAGGLERS: Duration = Duration::from_secs(120);

/// What the keeper remembers from one beat to the next.
#[derive(Default)]
struct Memory {
    /// Everybody's leases may have ended while nobody reached the database, or while its clock jumped: whoever notices
    /// first lets the others follow.
    calm_since: Option<Instant>,
    /// The database's time, in seconds, when it was ours.
    clocks: Option<(f64, BootTime)>,
    failover: failover::Watch,
}

/// Lives for as long as the ledger is open.
pub(super) async fn run(shared: Arc<Shared>) {
    let beat = BEAT.min(shared.config.lease / 3);
    let mut pause = FIRST_PAUSE;
    let mut memory = Memory::default();
    loop {
        let asked = Instant::now();
        match once(&shared, &mut memory).await {
            Ok(()) => {
                memory.calm_since.get_or_insert_with(Instant::now);
                pause = FIRST_PAUSE;
                sleep(BREATH).await;
                let _ = timeout(beat, shared.attention.notified()).await;
            }
            Err(_) => {
                memory.calm_since = None;
                // A statement that nobody waits for may go on in the database: there must not be more and more of them.
                sleep(pause.max(asked.elapsed())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn once(shared: &Shared, memory: &mut Memory) -> Result<(), Failure> {
    let heard = beat(shared, memory).await?;
    if !heard.is_registered {
        register(shared).await?;
    }
    if !heard.on_timeline {
        shared.standing.lock().trouble = Some("ledger_failover");
        memory.failover.verify(shared, &heard).await?;
        shared.attention.notify_one();
        shared.is_back();
        return Ok(());
    }
    if !heard.is_registered {
        tracing::error!("others took this process for dead: what it had claimed is theirs now");
    }
    memory.failover.compare(shared, &heard).await?;
    shared.acks.lock().beat(heard.beat, heard.begun);
    let is_durable = heard.is_durable && (heard.is_synchronous || !shared.config.require_synchronous);
    shared.standing.lock().trouble = (!is_durable).then_some("ledger_not_synchronous");
    shared.is_back();
    if heard.was_synchronous != heard.is_synchronous {
        note_synchronous(shared, heard.is_synchronous).await?;
    }
    withdraw(shared).await?;
    end_turns(shared).await?;
    if memory.calm_since.is_some_and(|since| since.elapsed() >= shared.config.lease / 3) {
        bury(shared).await?;
    }
    Ok(())
}

/// What a beat told.
pub(super) struct Heard {
    /// The database knows this replica.
    pub(super) is_registered: bool,
    /// Nobody may have taken it for dead.
    pub(super) was_alive: bool,
    /// How often it has heard of it; a new replica was not heard yet.
    pub(super) beat: i64,
    /// What had been acknowledged before.
    pub(super) begun: Begun,
    /// And all of that is there.
    pub(super) has_ours: bool,
    on_timeline: bool,
    pub(super) timeline: String,
    /// The tables are of this cluster.
    pub(super) on_cluster: bool,
    was_synchronous: bool,
    is_synchronous: bool,
    is_durable: bool,
}

async fn beat(shared: &Shared, memory: &mut Memory) -> Result<Heard, Failure> {
    let standing = shared.standing();
    let (begun, last, last_beat) = {
        let acks = shared.acks.lock();
        (acks.begin(), acks.last(), acks.last_beat())
    };
    let seqs: Vec<i64> = last.iter().map(|ack| ack.seq).collect();
    let tokens: Vec<i64> = last.iter().map(|ack| ack.token).collect();
    let states: Vec<&str> = last.iter().map(|ack| ack.state).collect();
    let (asked, lease) = (BootTime::now(), shared.config.lease.as_secs_f64());
    let parameters = &[
        (&standing.replica as _, Type::UUID),
        (&lease as _, Type::FLOAT8),
        (&seqs as _, Type::INT8_ARRAY),
        (&tokens as _, Type::INT8_ARRAY),
        (&states as _, Type::TEXT_ARRAY),
    ];
    let rows = shared.keep(sql::BEAT, parameters).await?;
    let row = rows.first().ok_or(Failure::Nothing(LedgerError::Unavailable))?;
    let (beat, on_timeline) = (get::<Option<i64>>(row, 0)?, get(row, 2)?);
    if memory.clocks_disagree(get(row, 6)?, asked) {
        tracing::warn!("the database's clock has jumped: nobody is taken for dead for a while");
        memory.calm_since = None;
    }
    // Where beats are counted, this one is behind the last one.
    let is_later = beat.is_none_or(|beat| beat >= last_beat + i64::from(on_timeline));
    let found: i64 = get(row, 9)?;
    let has_ours = is_later && usize::try_from(found).is_ok_and(|found| found == last.len());
    let was_alive = standing.lease.lasts_for(Duration::ZERO);
    match beat {
        None => standing.lease.lose(),
        // On another timeline it says nothing of what was before.
        Some(_) if on_timeline => standing.lease.renew(asked, shared.config.lease),
        Some(_) => {}
    }
    shared.standing.lock().fence = get(row, 1)?;
    let (was_synchronous, is_synchronous, is_durable) = (get(row, 3)?, get(row, 4)?, get(row, 5)?);
    Ok(Heard {
        is_registered: beat.is_some(),
        was_alive,
        beat: beat.unwrap_or_default(),
        begun,
        has_ours,
        on_timeline,
        timeline: get(row, 8)?,
        on_cluster: get(row, 7)?,
        was_synchronous,
        is_synchronous,
        is_durable,
    })
}

impl Memory {
    /// Whether the database's clock did not go on as the machine's did.
    fn clocks_disagree(&mut self, database: f64, asked: BootTime) -> bool {
        let before = self.clocks.replace((database, asked));
        let now = BootTime::now();
        before.is_some_and(|(then, asked_then)| {
            let went_on = database - then;
            // It looked at its clock at some time between the question and now.
            went_on > now.since(asked_then).as_secs_f64() + GRACE.as_secs_f64()
        })
    }
}

/// Enters a new replica, for this process. Its predecessor's claims are lost. It has one name however often that is tried:
/// one that is there and nobody's would be missed after a failover.
pub(super) async fn register(shared: &Shared) -> Result<(), Failure> {
    let replica = shared.standing.lock().next_replica;
    let (asked, time) = (BootTime::now(), shared.config.lease.as_secs_f64());
    shared.keep(sql::REGISTER, &[(&replica, Type::UUID), (&time, Type::FLOAT8)]).await?;
    let lease = Arc::new(Lease::default());
    lease.renew(asked, shared.config.lease);
    let mut standing = shared.standing.lock();
    standing.lease.lose();
    *standing = Standing { replica, next_replica: Uuid::new_v4(), lease, ..standing.clone() };
    shared.acks.lock().restart();
    Ok(())
}

async fn note_synchronous(shared: &Shared, is_synchronous: bool) -> Result<(), Failure> {
    shared.keep(sql::NOTE_SYNCHRONOUS, &[(&is_synchronous, Type::BOOL)]).await?;
    tracing::info!(is_synchronous, "whether commits wait for another machine has changed");
    Ok(())
}

/// Claims that were given up must not stand in their retries' way. Each is looked for until none can come any more.
pub(super) async fn withdraw(shared: &Shared) -> Result<(), Failure> {
    let given_up = shared.given_up.lock().clone();
    if given_up.is_empty() {
        return Ok(());
    }
    let tenants: Vec<&str> = given_up.iter().map(|one| &*one.tenant).collect();
    let nonces: Vec<&str> = given_up.iter().map(|one| one.nonce.as_str()).collect();
    let tokens: Vec<i64> = given_up.iter().map(|one| one.token).collect();
    let parameters =
        &[(&tenants as _, Type::TEXT_ARRAY), (&nonces as _, Type::TEXT_ARRAY), (&tokens as _, Type::INT8_ARRAY)];
    shared.keep(sql::WITHDRAW, parameters).await?;
    shared.given_up.lock().retain(|one| one.at.elapsed() <= STRAGGLERS);
    Ok(())
}

async fn end_turns(shared: &Shared) -> Result<(), Failure> {
    let replica = shared.standing().replica;
    loop {
        let Some(id) = shared.unended_turns.lock().last().cloned() else { return Ok(()) };
        shared.keep(sql::END_TURN, &[(&id, Type::TEXT), (&replica, Type::UUID)]).await?;
        shared.unended_turns.lock().pop();
    }
}

/// Takes those for dead of whom nobody has heard, and calls unknown what they left running.
async fn bury(shared: &Shared) -> Result<(), Failure> {
    let grace = GRACE.as_secs_f64();
    let dead = shared.keep(sql::BURY, &[(&grace, Type::FLOAT8)]).await?.len();
    if dead > 0 {
        tracing::warn!(replicas = dead, "nobody has heard of other replicas: they are taken for dead");
    }
    let abandoned = shared.keep(sql::ABANDON, &[]).await?.len();
    if abandoned > 0 {
        tracing::warn!(executions = abandoned, "another process died while they ran: their outcome is unknown");
    }
    Ok(())
}

/// Ends well: nobody has to wait for the lease to end.
pub(super) async fn leave(shared: &Shared, time: Duration) {
    let standing = shared.standing();
    standing.lease.lose();
    let left = async {
        withdraw(shared).await?;
        shared.keep(sql::LEAVE, &[(&standing.replica, Type::UUID)]).await
    };
    if !matches!(timeout(time, left).await, Ok(Ok(_))) {
        tracing::warn!("the ledger's database did not take the farewell: the others wait until the lease ends");
    }
}
