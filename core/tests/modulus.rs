//! Which hash partitions are replaced without the others.
use proptest::prelude::*;
use shardkeeper_core::modulus::{Part, parts};

fn all(modulus: u32) -> Vec<(u32, u32)> {
    (0..modulus).map(|remainder| (modulus, remainder)).collect()
}

fn part(old: &[usize], new: &[u32]) -> Part {
    Part { old: old.to_vec(), new: new.to_vec() }
}

#[test]
fn what_divides_goes_in_parts() {
    assert_eq!(parts(&all(2), 4), [part(&[0], &[0, 2]), part(&[1], &[1, 3])]);
    assert_eq!(parts(&all(4), 2), [part(&[0, 2], &[0]), part(&[1, 3], &[1])]);
    assert_eq!(parts(&all(1), 3), [part(&[0], &[0, 1, 2])]);
    assert_eq!(parts(&all(2), 3), [part(&[0, 1], &[0, 1, 2])]);
    // Half way from 2 to 4.
    let mixed = [(4, 0), (2, 1), (4, 2)];
    assert_eq!(parts(&mixed, 4), [part(&[0], &[0]), part(&[1], &[1, 3]), part(&[2], &[2])]);
    assert_eq!(parts(&mixed, 2), [part(&[0, 2], &[0]), part(&[1], &[1])]);
    assert_eq!(parts(&mixed, 6), [part(&[0, 1, 2], &[0, 1, 2, 3, 4, 5])]);
    // Remainder 1 has no partition: the new ones have to cover it too.
    assert_eq!(parts(&[(2, 0)], 4), [part(&[0], &[0, 1, 2, 3])]);
    assert_eq!(parts(&[], 2), [part(&[], &[0, 1])]);
}

/// Partitions as repeated splits leave them: of 1, some by `factor`, of these some by the next one.
fn bounds() -> impl Strategy<Value = Vec<(u32, u32)>> {
    (prop::collection::vec(1..4_u32, 0..4), prop::collection::vec(any::<bool>(), 64)).prop_map(|(factors, coins)| {
        let mut coins = coins.into_iter().cycle();
        let mut bounds = vec![(1, 0)];
        for factor in factors {
            let split = |(modulus, remainder): (u32, u32)| -> Vec<(u32, u32)> {
                (0..factor).map(|step| (modulus * factor, remainder + step * modulus)).collect()
            };
            let largest = bounds.iter().map(|(modulus, _)| *modulus).max().unwrap_or(1);
            bounds = bounds
                .into_iter()
                .flat_map(|bound| match bound.0 == largest && coins.next() == Some(true) {
                    true => split(bound),
                    false => vec![bound],
                })
                .collect();
        }
        bounds
    })
}

proptest! {
    #[test]
    fn each_row_stays_within_its_part(old in bounds(), modulus in 1..30_u32, hash: u64) {
        let parts = parts(&old, modulus);
        let source = old.iter().position(|(m, r)| hash % u64::from(*m) == u64::from(*r)).expect("one has it");
        let target = u32::try_from(hash % u64::from(modulus)).expect("below the modulus");
        let of = |part: &&Part| part.old.contains(&source);
        prop_assert_eq!(parts.iter().filter(of).count(), 1);
        prop_assert!(parts.iter().find(of).expect("one").new.contains(&target));
        let mut places: Vec<usize> = parts.iter().flat_map(|part| part.old.clone()).collect();
        places.sort_unstable();
        prop_assert_eq!(places, (0..old.len()).collect::<Vec<_>>());
        let mut remainders: Vec<u32> = parts.iter().flat_map(|part| part.new.clone()).collect();
        remainders.sort_unstable();
        prop_assert_eq!(remainders, (0..modulus).collect::<Vec<_>>());
    }
}
