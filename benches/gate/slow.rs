//! One good client alone, and the same beside 500 slow ones: half of them drip a header, half of them a body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::load::{Ids, Load};
use crate::process::Server;
use crate::table::median;

const SLOW: usize = 500;
/// Between two bytes of a slow client.
const DRIP: Duration = Duration::from_millis(100);
/// Between the arrivals of two of them: slow clients know nothing of each other. If all came and dripped at the same moments,
/// the bursts would be what is measured.
const ARRIVAL: Duration = Duration::from_millis(11);
/// Of the good client in one round: one after the other, each synced.
const MOST_REQUESTS: usize = 3_000;

/// Clients that drip until they are told to stop. One that the server lets go of comes again.
struct Crowd {
    stop: Arc<AtomicBool>,
    drips: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Crowd {
    fn gather(address: &str) -> Self {
        let (stop, drips, connected) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let (told, counted, open, address) = (stop.clone(), drips.clone(), Arc::clone(&connected), address.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let clients: Vec<_> = (0..SLOW)
                    .map(|at| {
                        let (address, open) = (address.clone(), Arc::<AtomicUsize>::clone(&open));
                        tokio::spawn(drip(address, at, told.clone(), counted.clone(), open))
                    })
                    .collect();
                for client in clients {
                    client.await.unwrap();
                }
            });
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while connected.load(Ordering::SeqCst) < SLOW {
            assert!(Instant::now() < deadline, "the crowd does not gather");
            std::thread::sleep(Duration::from_millis(10));
        }
        Crowd { stop, drips, thread }
    }

    /// How many bytes dripped.
    fn leave(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.drips.load(Ordering::SeqCst)
    }
}

async fn drip(address: String, at: usize, stop: Arc<AtomicBool>, drips: Arc<AtomicUsize>, connected: Arc<AtomicUsize>) {
    let head: &[u8] = if at.is_multiple_of(2) {
        b"POST /execute HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
    } else {
        b"POST /execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{"
    };
    tokio::time::sleep(ARRIVAL * u32::try_from(at).unwrap()).await;
    let mut first = true;
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        let mut went = stream.write_all(head).await;
        if std::mem::take(&mut first) {
            connected.fetch_add(1, Ordering::SeqCst);
        }
        while went.is_ok() && !stop.load(Ordering::SeqCst) {
            tokio::time::sleep(DRIP).await;
            went = stream.write_all(b" ").await;
            drips.fetch_add(1, Ordering::SeqCst);
        }
    }
}

pub(crate) fn measure(rounds: usize, requests: usize) {
    let server = Server::openexec("sqlite", "info");
    let requests = requests.min(MOST_REQUESTS);
    let (mut calm, mut crowded, mut drips) = (Vec::new(), Vec::new(), 0);
    // The first round warms up.
    for round in 0..=rounds {
        let alone = Load::mint(requests, 1_024, Ids::Random).run(&server.address, 1);
        let load = Load::mint(requests, 1_024, Ids::Random);
        let crowd = Crowd::gather(&server.address);
        let beside = load.run(&server.address, 1);
        drips = crowd.leave();
        if round > 0 {
            calm.push(alone);
            crowded.push(beside);
        }
    }
    println!(
        "\none client, 1 KiB bodies, {rounds} rounds of {requests} requests one after the other, SQLite synced; alone, and \
         beside {SLOW} slow clients ({drips} drips in the last round); interleaved; medians\n"
    );
    println!("{:<26}{:>11}{:>10}{:>10}", "", "requests/s", "p50 ms", "p99 ms");
    for (name, measured) in [("alone", &calm), ("beside the slow ones", &crowded)] {
        let of = |figure: fn(&crate::load::Measured) -> f64| median(measured.iter().map(figure).collect());
        println!("{name:<26}{:>11.0}{:>10.3}{:>10.3}", of(|m| m.rate), of(|m| m.p50_ms), of(|m| m.p99_ms));
    }
    let ratios = calm.iter().zip(&crowded).map(|(calm, crowded)| crowded.p99_ms / calm.p99_ms).collect();
    println!("\nthe p99 beside them is {:.2} times the one alone, formed round by round", median(ratios));
}
