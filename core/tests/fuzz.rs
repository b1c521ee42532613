//! Whatever bytes come, the readers return a value or an error: mutated at random for SHARDKEEPER_FUZZ_SECONDS each (2 without).
//! The seed is printed, and SHARDKEEPER_FUZZ_SEED repeats it.

mod common;

use serde_json::Value;
use shardkeeper_core::copy::{HEADER, Splitter, TRAILER};
use shardkeeper_core::pgoutput::Message;
use std::time::{Duration, Instant, SystemTime};

/// The generator of Marsaglia (Xorshift RNGs, 2003): what is random here need be neither secret nor even.
struct Random(u64);

impl Random {
    fn new(what: &str) -> Self {
        let given = std::env::var("SHARDKEEPER_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let seed = given.unwrap_or(now) | 1;
        println!("{what}: SHARDKEEPER_FUZZ_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One to four changes: a byte replaced, some cut out, doubled, or a number put in that lengths are often wrong about.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const NUMBERS: [[u8; 4]; 6] =
            [[0; 4], [0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0xff, 0xff]];
        for _ in 0..1 + self.below(4) {
            let (at, length) = (self.below(bytes.len() + 1), 1 + self.below(8));
            let end = (at + length).min(bytes.len());
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] = self.next() as u8,
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 => drop(bytes.splice(at..end, NUMBERS[self.below(NUMBERS.len())])),
                _ => bytes.truncate(at),
            }
        }
    }
}

/// Hands mutated copies of the seeds to `read`, and now and then what has come of one before.
fn fuzz(what: &str, seeds: &[Vec<u8>], mut read: impl FnMut(&[u8], &mut Random)) {
    let seconds = std::env::var("SHARDKEEPER_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = Random::new(what);
    let (mut last, mut count) = (seeds[0].clone(), 0u64);
    while Instant::now() < end {
        for _ in 0..100 {
            let mut bytes = if random.below(4) == 0 { last } else { seeds[random.below(seeds.len())].clone() };
            random.mutate(&mut bytes);
            bytes.truncate(4096);
            read(&bytes, &mut random);
            last = bytes;
            count += 1;
        }
    }
    println!("{what}: {count} inputs");
}

#[test]
fn no_message_of_pgoutput_makes_it_panic() {
    let seeds: [&[u8]; 8] = [
        b"B\0\0\0\0\x01\x72\xa6\0\0\x03\x03\xc5\xf6\x8e\xf0\x0f\0\0\x02\xf8",
        b"C\0\0\0\0\0\x01\x72\xa6\0\0\0\0\0\x01\x72\xa8\x40\0\x03\x03\xc5\xf6\x8e\xf0\x0f",
        b"R\0\0\x40\x07public\0s\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0note\0\0\0\0\x19\xff\xff\xff\xff",
        b"I\0\0\x40\x07N\0\x03t\0\0\0\x012nu",
        b"U\0\0\x40\x07K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x013b\0\0\0\x02\xff\0",
        b"D\0\0\x40\x0fO\0\x02t\0\0\0\x011t\0\0\0\x01y",
        b"T\0\0\0\x02\x03\0\0\x40\x07\0\0\x40\x0f",
        b"M\x01\0\0\0\0\x01\x72\x8f\x98pre\0\0\0\0\x03abc",
    ];
    let seeds = seeds.map(<[u8]>::to_vec);
    fuzz("pgoutput", &seeds, |bytes, _| drop(Message::parse(bytes)));
}

#[test]
fn no_stream_of_copy_makes_it_panic_and_its_chunks_do_not_matter() {
    let stream = |rows: &[&[Option<&[u8]>]]| {
        let mut bytes = HEADER.to_vec();
        rows.iter().for_each(|row| bytes.extend(common::copy_row(row)));
        bytes.extend(TRAILER);
        bytes
    };
    let seeds = [
        stream(&[]),
        stream(&[&[Some(b"1"), None], &[Some(b""), Some(b"long enough to be cut")]]),
        stream(&[&[], &[None]]),
    ];
    let rows = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let (mut splitter, mut found) = (Splitter::new(), Vec::new());
        for chunk in chunks {
            splitter.feed(chunk);
            while let Ok(Some(row)) = splitter.next() {
                found.push(common::copy_fields(row));
            }
        }
        (found, splitter.end())
    };
    fuzz("COPY", &seeds, |bytes, random| {
        let whole = rows(&mut std::iter::once(bytes));
        let size = 1 + random.below(16);
        assert_eq!(rows(&mut bytes.chunks(size)), whole, "in chunks of {size}: {bytes:?}");
    });
}

#[test]
fn no_spec_makes_it_panic_and_what_is_accepted_is_the_same_after_the_catalog() {
    let texts = [
        common::example().to_string(),
        r#"{"method":"range","key":"at","interval":"1 month","start":"2026-01-01","end":"2026-04-01","timezone":"Europe/Berlin","nodes":["n1","local"],"default":true}"#.into(),
        r#"{"method":"list","key":"code","values":{"ab":["a","b"],"c":{"in":["c",null],"nodes":["n2"]}},"default":{"nodes":["local"]}}"#.into(),
        r#"{"method":"hash","key":["id","a"],"modulus":8,"partitions":{"method":"range","key":"x","bounds":["-1.5",0,"7e3"]}}"#.into(),
    ];
    fuzz("spec", &texts.map(String::into_bytes), |bytes, _| {
        let Ok(doc) = serde_json::from_slice::<Value>(bytes) else { return };
        let Ok(level) = shardkeeper_core::parse(&doc) else { return };
        let stored = level.to_json();
        let read = shardkeeper_core::parse(&stored).unwrap_or_else(|error| panic!("{error}: {stored} of {doc}"));
        assert_eq!(read, level, "{doc}");
        let mut input = common::input("t", "2026-01-01T00:00:00Z");
        input.max_leaves = 1000;
        let _ = shardkeeper_core::plan::expand(&level, &input);
    });
}
