//! Which errors may pass: by their SQLSTATE, as all servers tell it.

/// Whether an error may be gone at a later try although nobody changes what was asked for: a server comes back, a lock is
/// let go, a disk gets room, a person gives the right, the setting or the password that is missing.
///
/// The other ones are about the rows, the tables or the commands themselves, which a later try meets as they are. What is known
/// to nobody counts among them: what cannot be judged shall end.
pub fn may_pass(sqlstate: &str) -> bool {
    match sqlstate {
        // A server that talks no Postgres.
        "08P01" => false,
        // A standby that is being promoted; a limit on idle or long transactions that somebody has set.
        "25006" | "25P03" | "25P04" => true,
        // No password was given, or asked for.
        "2F003" => true,
        // A catalog that is being restored.
        "3D000" => true,
        // Who violates a constraint by a serialization anomaly does it again.
        "40002" => false,
        // A right can be given back at any moment; and it is needed for cleaning up as well.
        "42501" => true,
        _ => match sqlstate.get(..2) {
            // Success, warnings and no data: no errors.
            Some("00" | "01" | "02") => true,
            // Connections and logins.
            Some("08" | "28") => true,
            // Deadlocks and serialization.
            Some("40") => true,
            // Disk, memory, connections, limits of the configuration; objects in use, locks, settings; a person or a
            // timeout; the operating system.
            Some("53" | "55" | "57" | "58") => true,
            // A snapshot that was too old; a lock file of the configuration.
            Some("72" | "F0") => true,
            // The way to a node: its options, and what is at their other end.
            Some("HV") => true,
            // 03, 09, 0A, 0B, 0F, 0L, 0P, 0Z, 10, 20, 21, 22, 23, 24, 25, 26, 27, 2B, 2D, 2F, 34, 38, 39, 3B, 3F, 42, 44, 54,
            // P0 and XX.
            _ => false,
        },
    }
}
