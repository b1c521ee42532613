//! Which hash partitions can be replaced without the others when the modulus changes.

/// Some partitions and what takes their place: their rows, and no others, belong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Places in the list of the old partitions.
    pub old: Vec<usize>,
    /// Remainders of the new modulus.
    pub new: Vec<u32>,
}

/// The smallest parts: one partition by several, or several by one, in the order of the old ones. `old` are modulus and
/// remainder of each partition, where each modulus divides the next larger one, as Postgres sees to it. One part with
/// everything where one of the moduli and the new one do not divide, or where some remainder has no partition yet.
pub fn parts(old: &[(u32, u32)], modulus: u32) -> Vec<Part> {
    let largest = old.iter().map(|(modulus, _)| *modulus).max().unwrap_or(1);
    let share = |modulus: u32| u64::from(largest / modulus);
    let is_whole = old.iter().map(|(modulus, _)| share(*modulus)).sum::<u64>() == u64::from(largest);
    let divides = |old: u32| modulus.is_multiple_of(old) || old.is_multiple_of(modulus);
    if !is_whole || !old.iter().all(|(old, _)| divides(*old)) {
        return vec![Part { old: (0..old.len()).collect(), new: (0..modulus).collect() }];
    }
    // A row keeps its remainder of the smaller one of both moduli.
    let class = |(old, remainder): (u32, u32)| (old.min(modulus), remainder % modulus);
    let mut parts: Vec<((u32, u32), Part)> = Vec::new();
    for (place, bound) in old.iter().enumerate() {
        let found = class(*bound);
        match parts.iter_mut().find(|(class, _)| *class == found) {
            Some((_, part)) => part.old.push(place),
            None => {
                let (common, first) = found;
                let new = (first..modulus).step_by(common as usize).collect();
                parts.push((found, Part { old: vec![place], new }));
            }
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}
