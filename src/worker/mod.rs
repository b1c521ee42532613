//! What runs in the background: a launcher for the server, one worker for each database with the extension, and those of
//! operations. What the worker of a database does is a list of tasks: a new one is an entry of it.

mod database;
pub mod entry;
mod healing;
mod launcher;
mod moved;
mod operations;
mod task;
mod trash;
