//! Whether the command that runs is one of ours. Nobody can set it: it is where this process is.

use std::cell::Cell;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// As long as it lives, what Postgres runs in this process was written by us. An error unwinds through it.
pub struct Ours(());

pub fn enter() -> Ours {
    DEPTH.set(DEPTH.get() + 1);
    Ours(())
}

impl Drop for Ours {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

pub fn is_running() -> bool {
    DEPTH.get() > 0
}
