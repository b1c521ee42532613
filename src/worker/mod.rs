//! What runs in the background: a launcher for the server, one worker for each database with the extension, and those of
//! operations.

mod database;
pub mod entry;
mod launcher;
mod visit;
