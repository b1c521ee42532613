//! Messages of pgoutput are read as they were written, and what is none is refused.

use proptest::prelude::*;
use shardkeeper_core::Lsn;
use shardkeeper_core::pgoutput::{Column, Identity, Message, MessageError, Old, Relation, Tuple, Value};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn parse(hex: &str) -> Result<Message, MessageError> {
    Message::parse(&bytes(hex))
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

/// Table "s" of a server of version 18: id int primary key, note text, n numeric(6,2), m mood.
#[test]
fn a_relation_of_postgres_is_read() {
    let relation = parse(
        "52 00004007 7075626c696300 7300 64 0004
         01 696400 00000017 ffffffff  00 6e6f746500 00000019 ffffffff
         00 6e00 000006a4 00060006  00 6d00 00004003 ffffffff",
    );
    let column =
        |is_key, name: &str, type_oid, type_modifier| Column { is_key, name: name.into(), type_oid, type_modifier };
    let expected = Relation {
        id: 16391,
        schema: "public".into(),
        name: "s".into(),
        identity: Identity::Default,
        columns: vec![
            column(true, "id", 23, -1),
            column(false, "note", 25, -1),
            column(false, "n", 1700, 6 << 16 | 6),
            column(false, "m", 16387, -1),
        ],
    };
    assert_eq!(relation, Ok(Message::Relation(expected)));
    let expected = Message::Type { id: 16387, schema: "public".into(), name: "mood".into() };
    assert_eq!(parse("59 00004003 7075626c696300 6d6f6f6400"), Ok(expected));
    let catalog = Message::Type { id: 1, schema: "pg_catalog".into(), name: "a".into() };
    assert_eq!(Message::parse(b"Y\0\0\0\x01\0a\0"), Ok(catalog));
}

#[test]
fn a_transaction_of_postgres_is_read() {
    let begin = parse("42 000000000172a600 000303c5f68ef00f 000002f8");
    let final_lsn: Lsn = "0/172A600".parse().expect("a position");
    let commit_time = 848_573_710_135_311;
    assert_eq!(begin, Ok(Message::Begin { final_lsn, commit_time, xid: 760 }));
    let commit = parse("43 00 000000000172a600 000000000172a840 000303c5f68ef00f");
    assert_eq!(commit, Ok(Message::Commit { commit_lsn: final_lsn, end_lsn: Lsn(0x172_A840), commit_time }));
    let logical = parse("4d 01 0000000001728f98 70726500 00000003 616263");
    let expected =
        Message::Logical { transactional: true, lsn: Lsn(0x172_8F98), prefix: "pre".into(), content: b"abc".to_vec() };
    assert_eq!(logical, Ok(expected));
    let truncate = parse("54 00000002 03 00004007 0000400f");
    let relations = vec![16391, 16399];
    assert_eq!(truncate, Ok(Message::Truncate { relations, cascade: true, restart_identity: true }));
}

#[test]
fn changes_of_postgres_are_read() {
    let insert = parse("49 00004007 4e 0004 74 00000001 32 6e 6e 6e");
    let new = Tuple(vec![text("2"), Value::Null, Value::Null, Value::Null]);
    assert_eq!(insert, Ok(Message::Insert { relation: 16391, new }));

    let update = parse("55 00004007 4e 0004 74 00000001 31 75 74 00000004 322e3030 74 00000002 6f6b");
    let new = Tuple(vec![text("1"), Value::Unchanged, text("2.00"), text("ok")]);
    assert_eq!(update, Ok(Message::Update { relation: 16391, old: None, new }));

    let moved = parse(
        "55 00004007 4b 0004 74 00000001 31 6e 6e 6e
         4e 0004 74 00000001 33 75 74 00000004 322e3030 74 00000002 6f6b",
    );
    let old = Old::Key(Tuple(vec![text("1"), Value::Null, Value::Null, Value::Null]));
    let new = Tuple(vec![text("3"), Value::Unchanged, text("2.00"), text("ok")]);
    assert_eq!(moved, Ok(Message::Update { relation: 16391, old: Some(old), new }));

    let full = parse("55 0000400f 4f 0002 74 00000001 31 74 00000001 78 4e 0002 74 00000001 31 74 00000001 79");
    let old = Some(Old::Full(Tuple(vec![text("1"), text("x")])));
    assert_eq!(full, Ok(Message::Update { relation: 16399, old, new: Tuple(vec![text("1"), text("y")]) }));

    let delete = parse("44 0000400f 4f 0002 74 00000001 31 74 00000001 79");
    let old = Old::Full(Tuple(vec![text("1"), text("y")]));
    assert_eq!(delete, Ok(Message::Delete { relation: 16399, old }));
}

#[test]
fn an_unknown_message_is_named() {
    let error = Message::parse(b"S\0\0\x02\xf1\x01").expect_err("a message of version 2");
    assert_eq!(error, MessageError::Unknown(b'S'));
    assert_eq!(error.to_string(), "unknown message type 'S' (0x53)");
    assert_eq!(MessageError::Unknown(0xff).to_string(), "unknown message type '\\xff' (0xff)");
    assert_eq!(Message::parse(b""), Err(MessageError::Truncated));
}

#[test]
fn impossible_parts_are_refused() {
    assert_eq!(Message::parse(b"I\0\0\0\x01X"), Err(MessageError::Row(b'X')));
    assert_eq!(Message::parse(b"D\0\0\0\x01N"), Err(MessageError::Row(b'N')));
    assert_eq!(Message::parse(b"U\0\0\0\x01K\0\0K"), Err(MessageError::Row(b'K')));
    assert_eq!(Message::parse(b"I\0\0\0\x01N\xff\xff"), Err(MessageError::Length(-1)));
    assert_eq!(Message::parse(b"I\0\0\0\x01N\0\x01z"), Err(MessageError::Value(b'z')));
    assert_eq!(Message::parse(b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff"), Err(MessageError::Length(-1)));
    assert_eq!(Message::parse(b"I\0\0\0\x01N\0\x01t\x7f\xff\xff\xff"), Err(MessageError::Truncated));
    assert_eq!(Message::parse(b"I\0\0\0\x01N\x7f\xff"), Err(MessageError::Truncated));
    assert_eq!(Message::parse(b"T\x7f\xff\xff\xff\0"), Err(MessageError::Truncated));
    assert_eq!(Message::parse(b"T\0\0\0\0\x04"), Err(MessageError::Flags(4)));
    assert_eq!(Message::parse(b"R\0\0\0\x01s\0t\0x\0\0"), Err(MessageError::Identity(b'x')));
    assert_eq!(Message::parse(b"R\0\0\0\x01\xff\0t\0d\0\0"), Err(MessageError::Name));
    assert_eq!(Message::parse(b"I\0\0\0\x01N\0\0\0"), Err(MessageError::Trailing));
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn counted(out: &mut Vec<u8>, content: &[u8]) {
    out.extend((content.len() as u32).to_be_bytes());
    out.extend(content);
}

fn tuple(out: &mut Vec<u8>, kind: u8, tuple: &Tuple) {
    out.push(kind);
    out.extend((tuple.0.len() as i16).to_be_bytes());
    for value in &tuple.0 {
        match value {
            Value::Null => out.push(b'n'),
            Value::Unchanged => out.push(b'u'),
            Value::Text(text) => {
                out.push(b't');
                counted(out, text);
            }
            Value::Binary(bytes) => {
                out.push(b'b');
                counted(out, bytes);
            }
        }
    }
}

fn old(out: &mut Vec<u8>, old: &Old) {
    match old {
        Old::Key(key) => tuple(out, b'K', key),
        Old::Full(row) => tuple(out, b'O', row),
    }
}

/// What Postgres sends for a message.
fn write(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        Message::Begin { final_lsn, commit_time, xid } => {
            out.push(b'B');
            out.extend(final_lsn.0.to_be_bytes());
            out.extend(commit_time.to_be_bytes());
            out.extend(xid.to_be_bytes());
        }
        Message::Commit { commit_lsn, end_lsn, commit_time } => {
            out.extend([b'C', 0]);
            out.extend(commit_lsn.0.to_be_bytes());
            out.extend(end_lsn.0.to_be_bytes());
            out.extend(commit_time.to_be_bytes());
        }
        Message::Origin { commit_lsn, name } => {
            out.push(b'O');
            out.extend(commit_lsn.0.to_be_bytes());
            string(&mut out, name);
        }
        Message::Relation(relation) => {
            out.push(b'R');
            out.extend(relation.id.to_be_bytes());
            string(&mut out, &relation.schema);
            string(&mut out, &relation.name);
            out.push(match relation.identity {
                Identity::Default => b'd',
                Identity::Nothing => b'n',
                Identity::Full => b'f',
                Identity::Index => b'i',
            });
            out.extend((relation.columns.len() as i16).to_be_bytes());
            for column in &relation.columns {
                out.push(column.is_key.into());
                string(&mut out, &column.name);
                out.extend(column.type_oid.to_be_bytes());
                out.extend(column.type_modifier.to_be_bytes());
            }
        }
        Message::Type { id, schema, name } => {
            out.push(b'Y');
            out.extend(id.to_be_bytes());
            string(&mut out, schema);
            string(&mut out, name);
        }
        Message::Insert { relation, new } => {
            out.push(b'I');
            out.extend(relation.to_be_bytes());
            tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old: before, new } => {
            out.push(b'U');
            out.extend(relation.to_be_bytes());
            before.iter().for_each(|before| old(&mut out, before));
            tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old: before } => {
            out.push(b'D');
            out.extend(relation.to_be_bytes());
            old(&mut out, before);
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            out.push(b'T');
            out.extend((relations.len() as u32).to_be_bytes());
            out.push(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relations.iter().for_each(|relation| out.extend(relation.to_be_bytes()));
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            out.extend([b'M', (*transactional).into()]);
            out.extend(lsn.0.to_be_bytes());
            string(&mut out, prefix);
            counted(&mut out, content);
        }
    }
    out
}

fn a_name() -> impl Strategy<Value = String> {
    "[a-z \"ä]{1,8}"
}

fn a_tuple() -> impl Strategy<Value = Tuple> {
    let content = || prop::collection::vec(any::<u8>(), 0..10);
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        content().prop_map(Value::Text),
        content().prop_map(Value::Binary),
    ];
    prop::collection::vec(value, 0..6).prop_map(Tuple)
}

fn an_old() -> impl Strategy<Value = Old> {
    prop_oneof![a_tuple().prop_map(Old::Key), a_tuple().prop_map(Old::Full)]
}

fn a_relation() -> impl Strategy<Value = Message> {
    let identity = prop::sample::select(vec![Identity::Default, Identity::Nothing, Identity::Full, Identity::Index]);
    let column = (any::<bool>(), a_name(), any::<u32>(), any::<i32>())
        .prop_map(|(is_key, name, type_oid, type_modifier)| Column { is_key, name, type_oid, type_modifier });
    (any::<u32>(), a_name(), a_name(), identity, prop::collection::vec(column, 0..6)).prop_map(
        |(id, schema, name, identity, columns)| Message::Relation(Relation { id, schema, name, identity, columns }),
    )
}

fn a_message() -> impl Strategy<Value = Message> {
    let lsn = || any::<u64>().prop_map(Lsn);
    prop_oneof![
        (lsn(), any::<i64>(), any::<u32>()).prop_map(|(final_lsn, commit_time, xid)| Message::Begin {
            final_lsn,
            commit_time,
            xid
        }),
        (lsn(), lsn(), any::<i64>()).prop_map(|(commit_lsn, end_lsn, commit_time)| Message::Commit {
            commit_lsn,
            end_lsn,
            commit_time
        }),
        (lsn(), a_name()).prop_map(|(commit_lsn, name)| Message::Origin { commit_lsn, name }),
        a_relation(),
        (any::<u32>(), a_name(), a_name()).prop_map(|(id, schema, name)| Message::Type { id, schema, name }),
        (any::<u32>(), a_tuple()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop::option::of(an_old()), a_tuple()).prop_map(|(relation, old, new)| Message::Update {
            relation,
            old,
            new
        }),
        (any::<u32>(), an_old()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (prop::collection::vec(any::<u32>(), 0..4), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| Message::Truncate { relations, cascade, restart_identity }
        ),
        (any::<bool>(), lsn(), a_name(), prop::collection::vec(any::<u8>(), 0..10))
            .prop_map(|(transactional, lsn, prefix, content)| Message::Logical { transactional, lsn, prefix, content }),
    ]
}

proptest! {
    #[test]
    fn a_message_is_read_back(message in a_message()) {
        let bytes = write(&message);
        prop_assert_eq!(Message::parse(&bytes), Ok(message));
        let longer = [&bytes[..], b"\0"].concat();
        prop_assert_eq!(Message::parse(&longer), Err(MessageError::Trailing));
    }

    #[test]
    fn a_message_cut_short_is_refused(message in a_message(), at: usize) {
        let bytes = write(&message);
        prop_assert_eq!(Message::parse(&bytes[..at % bytes.len()]), Err(MessageError::Truncated));
    }

    #[test]
    fn no_bytes_make_it_panic(message in a_message(), changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        let mut bytes = write(&message);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = Message::parse(&bytes);
    }
}
