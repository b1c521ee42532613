//! What runs in the background: a launcher for the server, one worker for each database with the extension, and those of
//! operations. What the worker of a database does is the list of tasks in
//! `database.rs`; a task says when, and calls the module below that does the work.

mod database;
pub mod entry;
mod healing;
mod launcher;
mod moved;
mod operations;
mod task;
mod trash;
