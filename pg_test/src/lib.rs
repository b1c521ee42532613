//! The cluster harness: real Postgres servers in temporary directories, and faults made for real.
