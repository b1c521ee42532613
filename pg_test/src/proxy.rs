//! The network between a coordinator and a node, as bad as we want it.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A TCP proxy in front of one server.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

/// What happens when the bytes that are waited for pass from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The server never sees them; nothing moves any more, no connection is closed.
    Stall,
    /// The server sees them and acts, but its answer does not come back.
    StallAnswer,
    /// The server never sees them; all connections are closed.
    Cut,
    /// The server sees them and acts; all connections are closed before the answer is back.
    CutAnswer,
}

/// The other end of `Proxy::on`.
pub struct Hit {
    shared: Arc<Shared>,
    number: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    upstream: u16,
    cut: bool,
    stall_up: bool,
    stall_down: bool,
    cut_on_answer: bool,
    closed: bool,
    delay: Duration,
    trap: Option<Trap>,
    traps: u64,
    hits: Vec<u64>,
    streams: Vec<TcpStream>,
}

struct Trap {
    number: u64,
    needle: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Proxy {
    pub fn start(upstream: u16) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the proxy")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        shared.lock().upstream = upstream;
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Proxy { port, shared })
    }

    /// Where a client connects to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Drops all connections; a new one is closed as soon as it is made.
    pub fn cut(&self) {
        self.shared.lock().cut();
    }

    /// Holds back everything in both directions, also for new connections, and closes nothing.
    pub fn stall(&self) {
        let mut state = self.shared.lock();
        state.stall_up = true;
        state.stall_down = true;
    }

    /// Everything works again; what was held back is forwarded.
    pub fn resume(&self) {
        self.shared.lock().resume();
        self.shared.changed.notify_all();
    }

    /// `resume`, and `on` before anything passes.
    pub fn resume_until(&self, needle: &[u8], then: Then) -> Hit {
        let mut state = self.shared.lock();
        state.resume();
        let number = state.set(needle, then);
        self.shared.changed.notify_all();
        Hit { shared: Arc::clone(&self.shared), number }
    }

    /// Each piece of data waits that long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Once, when `needle` passes from the client to the server.
    pub fn on(&self, needle: &[u8], then: Then) -> Hit {
        let number = self.shared.lock().set(needle, then);
        Hit { shared: Arc::clone(&self.shared), number }
    }

    /// `on(needle, Then::Stall)`.
    pub fn stall_on(&self, needle: &[u8]) -> Hit {
        self.on(needle, Then::Stall)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.cut();
            self.shared.changed.notify_all();
        }
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Hit {
    pub fn wait_until_hit(&self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let mut state = self.shared.lock();
        while !state.hits.contains(&self.number) {
            let left = limit.saturating_sub(start.elapsed());
            ensure!(!left.is_zero(), "the bytes did not pass the proxy within {limit:?}");
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits while this direction is stalled. `false`: the connection is over.
    fn may_pass(&self, direction: Direction) -> bool {
        let mut state = self.lock();
        loop {
            if state.cut || state.closed {
                return false;
            }
            let stalled = match direction {
                Direction::Up => state.stall_up,
                Direction::Down => state.stall_down,
            };
            if !stalled {
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Springs the trap if its bytes are among the last that pass.
    fn spring(&self, passing: &[u8]) {
        let mut state = self.lock();
        let hit =
            state.trap.take_if(|trap| passing.windows(trap.needle.len().max(1)).any(|window| window == trap.needle));
        let Some(trap) = hit else {
            return;
        };
        state.hits.push(trap.number);
        match trap.then {
            Then::Stall => {
                state.stall_up = true;
                state.stall_down = true;
            }
            Then::StallAnswer => state.stall_down = true,
            Then::CutAnswer => state.cut_on_answer = true,
            Then::Cut => state.cut(),
        }
        self.changed.notify_all();
    }

    /// The server's answer is the sign that it has acted: now it may be lost.
    fn cut_instead_of_answer(&self) {
        let mut state = self.lock();
        if std::mem::take(&mut state.cut_on_answer) {
            state.cut();
            self.changed.notify_all();
        }
    }
}

impl State {
    fn resume(&mut self) {
        self.cut = false;
        self.stall_up = false;
        self.stall_down = false;
        self.cut_on_answer = false;
        self.trap = None;
    }

    /// The number of the new trap.
    fn set(&mut self, needle: &[u8], then: Then) -> u64 {
        self.traps += 1;
        self.trap = Some(Trap { number: self.traps, needle: needle.to_vec(), then });
        self.traps
    }

    fn cut(&mut self) {
        self.cut = true;
        for stream in self.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let mut state = shared.lock();
        if state.closed {
            return;
        }
        let Ok(client) = client else { continue };
        if state.cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", state.upstream)) else {
            continue;
        };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let clones = (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone());
        let (Ok(client_2), Ok(server_2), Ok(client_3), Ok(server_3)) = clones else {
            continue;
        };
        state.streams.extend([client_3, server_3]);
        drop(state);
        let (up, down) = (Arc::clone(shared), Arc::clone(shared));
        thread::spawn(move || pump(client, server, Direction::Up, &up));
        thread::spawn(move || pump(server_2, client_2, Direction::Down, &down));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, direction: Direction, shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    // The end of what passed before: the needle may come in two pieces.
    let mut seen: Vec<u8> = Vec::new();
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let piece = &buffer[..length];
        match direction {
            Direction::Up => {
                seen.extend_from_slice(piece);
                shared.spring(&seen);
                seen.drain(..seen.len().saturating_sub(KEPT));
            }
            Direction::Down => shared.cut_instead_of_answer(),
        }
        let delay = shared.lock().delay;
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        if !shared.may_pass(direction) || to.write_all(piece).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// As much of the past as the longest needle may need.
const KEPT: usize = 256;
