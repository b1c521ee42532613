//! Binary COPY streams are split into the same rows however they arrive, and broken ones are refused.

mod common;

use common::{copy_fields, copy_row as row};
use proptest::prelude::*;
use shardkeeper_core::copy::{CopyError, HEADER, Splitter, TRAILER, text_row};

type Fields = Vec<Option<Vec<u8>>>;

fn stream(rows: &[Fields]) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    rows.iter().for_each(|fields| out.extend(row(fields)));
    out.extend(TRAILER);
    out
}

/// The rows of a stream that arrives in these chunks: their fields, each row checked against its raw bytes.
fn split<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Fields>, CopyError> {
    let mut splitter = Splitter::new();
    let mut rows = Vec::new();
    for chunk in chunks {
        splitter.feed(chunk);
        while let Some(found) = splitter.next()? {
            let fields = copy_fields(found);
            assert_eq!(found.raw(), row(&fields));
            assert_eq!((found.len(), found.is_empty()), (fields.len(), fields.is_empty()));
            assert_eq!(found.field(fields.len()), None);
            rows.push(fields);
        }
    }
    splitter.end().map(|()| rows)
}

/// What becomes of bytes as a whole stream.
fn refusal(bytes: &[u8]) -> Option<CopyError> {
    split([bytes]).err()
}

fn header(flags: u32, extension: i32) -> Vec<u8> {
    [&HEADER[..11], &flags.to_be_bytes(), &extension.to_be_bytes()].concat()
}

#[test]
fn a_stream_of_postgres_is_read() {
    // COPY (SELECT 1::int, NULL::text, 'ab'::text, ''::text) TO STDOUT (FORMAT binary)
    let bytes =
        b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\x04\0\0\0\x01\xff\xff\xff\xff\0\0\0\x02ab\0\0\0\0\xff\xff";
    let expected = vec![vec![Some(vec![0, 0, 0, 1]), None, Some(b"ab".to_vec()), Some(Vec::new())]];
    assert_eq!(split([&bytes[..]]), Ok(expected.clone()));
    assert_eq!(stream(&expected), bytes);
}

#[test]
fn a_header_extension_is_skipped() {
    let fields = vec![Some(b"x".to_vec())];
    let bytes = [header(0x0000_0001, 5), b"extra".to_vec(), row(&fields), TRAILER.to_vec()].concat();
    assert_eq!(split([&bytes[..]]), Ok(vec![fields.clone()]));
    assert_eq!(split(bytes.chunks(1)), Ok(vec![fields]));
}

#[test]
fn a_wrong_header_is_refused() {
    assert_eq!(refusal(b"id,name\n"), Some(CopyError::Signature));
    assert_eq!(refusal(b"Q"), Some(CopyError::Signature));
    assert_eq!(refusal(&header(0x0001_0000, 0)), Some(CopyError::Oids));
    assert_eq!(refusal(&header(0x8000_0001, 0)), Some(CopyError::Flags(0x8000_0000)));
    assert_eq!(refusal(&header(0, -1)), Some(CopyError::Extension(-1)));
}

#[test]
fn impossible_counts_and_lengths_are_refused() {
    let of = |tail: &[u8]| refusal(&[&HEADER[..], tail].concat());
    let lengths = |lengths: &[i32]| {
        let lengths: Vec<u8> = lengths.iter().flat_map(|length| length.to_be_bytes()).collect();
        of(&[&[0, 2][..], &lengths].concat())
    };
    assert_eq!(of(&(-2i16).to_be_bytes()), Some(CopyError::FieldCount(-2)));
    assert_eq!(of(&i16::MIN.to_be_bytes()), Some(CopyError::FieldCount(i16::MIN)));
    assert_eq!(lengths(&[-2]), Some(CopyError::FieldLength(-2)));
    assert_eq!(lengths(&[-1, i32::MIN]), Some(CopyError::FieldLength(i32::MIN)));
    assert_eq!(lengths(&[0x4000_0000]), Some(CopyError::FieldLength(0x4000_0000)));
    assert_eq!(lengths(&[0x3fff_ffff]), Some(CopyError::RowLength));
    assert_eq!(lengths(&[0x3fff_f000]), Some(CopyError::Truncated));
}

#[test]
fn nothing_follows_the_trailer() {
    let whole = stream(&[vec![None]]);
    for extra in [&b"\0"[..], &TRAILER, &row::<&[u8]>(&[None])] {
        assert_eq!(refusal(&[&whole, extra].concat()), Some(CopyError::AfterTrailer));
        assert_eq!(split([&whole, extra]), Err(CopyError::AfterTrailer));
    }
    assert_eq!(split([&whole[..], &[]]), Ok(vec![vec![None]]));
}

#[test]
fn an_error_is_final() {
    let mut splitter = Splitter::new();
    splitter.feed(b"nothing of ours");
    for _ in 0..3 {
        assert_eq!(splitter.next().err(), Some(CopyError::Signature));
        assert_eq!(splitter.end(), Err(CopyError::Signature));
        splitter.feed(&HEADER);
    }
}

#[test]
fn a_value_is_written_as_one_text_line() {
    let line = |fields: &[Option<&[u8]>]| {
        let mut out = Vec::new();
        text_row(&mut out, fields.iter().copied());
        String::from_utf8(out).expect("text")
    };
    assert_eq!(line(&[Some(b"1"), None, Some(b""), Some("ä b".as_bytes())]), "1\t\\N\t\tä b\n");
    assert_eq!(line(&[Some(b"a\\b\nc\rd\te")]), "a\\\\b\\nc\\rd\\te\n");
    assert_eq!(line(&[Some(b"\\.")]), "\\\\.\n");
    assert_eq!(line(&[Some(b"\\N")]), "\\\\N\n");
    assert_eq!(line(&[]), "\n");
}

/// What COPY FROM reads in a text line.
fn unescape(line: &[u8]) -> Fields {
    let line = line.strip_suffix(b"\n").expect("a line");
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r') && line != b"\\.");
    line.split(|byte| *byte == b'\t')
        .map(|field| {
            let mut value = Vec::new();
            let mut bytes = field.iter();
            while let Some(byte) = bytes.next() {
                value.push(match (byte, field) {
                    (b'\\', b"\\N") => return None,
                    (b'\\', _) => match bytes.next().expect("an escaped byte") {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => *other,
                    },
                    _ => *byte,
                });
            }
            Some(value)
        })
        .collect()
}

fn some_fields() -> impl Strategy<Value = Fields> {
    prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 0..6)
}

/// Bytes cut at these places, taken modulo the length.
fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_chunks_give_the_same_rows(
        rows in prop::collection::vec(some_fields(), 0..20),
        places in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let bytes = stream(&rows);
        let rows = Ok(rows);
        prop_assert_eq!(&split(cut(&bytes, &places)), &rows);
        prop_assert_eq!(&split(bytes.chunks(1)), &rows);
    }

    #[test]
    fn rows_may_stay_in_the_splitter_while_more_is_fed(
        rows in prop::collection::vec(some_fields(), 0..20),
        size in 1usize..40,
        taken in 0usize..3,
    ) {
        let bytes = stream(&rows);
        let mut splitter = Splitter::new();
        let mut found = Vec::new();
        let mut take = |splitter: &mut Splitter, most: usize| {
            for _ in 0..most {
                let Some(row) = splitter.next().expect("a good stream") else { return };
                found.push(copy_fields(row));
            }
        };
        for chunk in bytes.chunks(size) {
            splitter.feed(chunk);
            take(&mut splitter, taken);
        }
        take(&mut splitter, rows.len() + 1);
        prop_assert_eq!(splitter.end(), Ok(()));
        prop_assert_eq!(found, rows);
    }

    #[test]
    fn a_stream_cut_short_is_an_error(rows in prop::collection::vec(some_fields(), 0..8), at: usize) {
        let bytes = stream(&rows);
        prop_assert_eq!(refusal(&bytes[..at % bytes.len()]), Some(CopyError::Truncated));
    }

    #[test]
    fn no_bytes_make_it_panic_and_chunks_do_not_matter(
        rows in prop::collection::vec(some_fields(), 0..8),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        places in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let mut bytes = stream(&rows);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        prop_assert_eq!(split([&bytes[..]]), split(cut(&bytes, &places)));
    }

    #[test]
    fn random_bytes_after_the_header_end(tail in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0xff]), 0..200)) {
        let bytes = [&HEADER[..], &tail].concat();
        prop_assert_eq!(split([&bytes[..]]), split(bytes.chunks(3)));
    }

    #[test]
    fn a_text_line_is_read_back(
        fields in prop::collection::vec(
            prop::option::of(prop::collection::vec(prop::sample::select(b"\\\n\r\tN.nrtab".to_vec()), 0..6)), 1..5),
    ) {
        let mut line = Vec::new();
        text_row(&mut line, fields.iter().map(Option::as_deref));
        prop_assert_eq!(unescape(&line), fields);
    }
}
