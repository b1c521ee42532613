//! Mistakes in a spec, in the arguments of the short form, and in the bounds of one more partition.
use anyhow::Result;

use super::Scene;

pub const TABLE: &str = r#"CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE t (id int, at timestamptz, day date, name text, big numeric, feeling mood, flag bool, "Mixed" int,
                    doubled int GENERATED ALWAYS AS (id * 2) STORED)"#;

/// Specs, each with the message and a piece of the hint; all are 22023.
const SPECS: &[(&str, &str, &str)] = &[
    // Members.
    (r#"{"method": "hash", "key": "id", "modulo": 4}"#, r#"$.modulo: unknown field "modulo""#, r#"you mean "modulus""#),
    (r#"{"method": "hash", "key": "id", "modulus": 2, "colour": "red"}"#, r#"$.colour: unknown field "colour""#, ""),
    (
        r#"{"method": "range", "key": "day", "intervall": "1 day"}"#,
        r#"$.intervall: unknown field "intervall""#,
        r#""interval""#,
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "values": {"a": [1]}}"#,
        r#"$.values: unknown field "values""#,
        "",
    ),
    (
        r#"{"method": "list", "key": "name", "values": {"us": {"in": ["US"], "partitions": {"method": "hash", "key": "id", "moduls": 4}}}}"#,
        r#"$.values.us.partitions.moduls: unknown field "moduls""#,
        r#""modulus""#,
    ),
    (
        r#"{"method": "list", "key": "name", "values": {"us": {"im": ["US"]}}}"#,
        r#"$.values.us.im: unknown field "im""#,
        r#""in""#,
    ),
    (
        r#"{"method": "list", "key": "name", "values": {"a \"b\".c": {"node": ["n1"], "in": ["x"]}}}"#,
        r#"$.values["a \"b\".c"].node: unknown field "node""#,
        r#""nodes""#,
    ),
    (
        r#"{"method": "range", "key": "id", "bounds": {"a": {"form": 1, "to": 2}}}"#,
        r#"$.bounds.a.form: unknown field "form""#,
        r#""from""#,
    ),
    (r#"{"key": "id"}"#, r#"$: "method" is missing"#, ""),
    (r#"{"method": "hash", "modulus": 2}"#, r#"$: "key" is missing"#, ""),
    (r#"{"method": "hash", "key": "id"}"#, r#"$: "modulus" is missing"#, ""),
    (r#"{"method": "list", "key": "id"}"#, r#"$: "values" is missing"#, ""),
    (r#"{"method": "hsah", "key": "id", "modulus": 2}"#, r#"$.method: unknown method "hsah""#, r#""hash""#),
    (r#"{"method": "round robin", "key": "id"}"#, r#"$.method: unknown method "round robin""#, ""),
    (r#"{}"#, r#"$: "method" is missing"#, ""),
    // Types.
    ("[]", "$: invalid type: array, expected an object", ""),
    ("null", "$: invalid type: null, expected an object", ""),
    ("7", "$: invalid type: integer 7, expected an object", ""),
    (r#"{"method": 3, "key": "id"}"#, "$.method: invalid type: integer 3, expected a string", ""),
    (
        r#"{"method": "hash", "key": "id", "modulus": "4"}"#,
        "$.modulus: modulus must be a whole number from 1 to 2147483647",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2.5}"#,
        "$.modulus: modulus must be a whole number from 1 to 2147483647",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 0}"#,
        "$.modulus: modulus must be a whole number from 1 to 2147483647",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 3000000000}"#,
        "$.modulus: modulus must be a whole number from 1 to 2147483647",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "nodes": "n1"}"#,
        "$.nodes: invalid type: string \"n1\", expected an array",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "nodes": [1]}"#,
        "$.nodes[0]: invalid type: integer 1, expected a string",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "nodes": []}"#,
        "$.nodes: the list of nodes is empty",
        r#"Leave "nodes" out"#,
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "nodes": ["n1", ""]}"#,
        "$.nodes[1]: the name of a node is empty",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "partitions": true}"#,
        "$.partitions: partitions must be an object that describes a level, or false",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "default": true}"#,
        "$.default: a hash level has no default partition",
        "",
    ),
    (r#"{"method": "hash", "key": [], "modulus": 2}"#, "$.key: the key is empty", ""),
    (
        r#"{"method": "list", "key": ["id", "name"], "values": {"a": [1]}}"#,
        "$.key: a list level has exactly one key column",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "name": "{parent}_x"}"#,
        r#"$.name: the name template "{parent}_x" lacks {label}"#,
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "name": "{table}_{label}"}"#,
        r#"$.name: the name template "{table}_{label}" has an unknown placeholder"#,
        "",
    ),
    // Lists.
    (r#"{"method": "list", "key": "name", "values": {}}"#, "$.values: the level has no partitions", ""),
    (
        r#"{"method": "list", "key": "name", "values": {"a": []}}"#,
        "$.values.a: a list partition needs at least one value",
        "",
    ),
    (
        r#"{"method": "list", "key": "name", "values": {"a": ["x"], "b": ["y", "x"]}}"#,
        r#"$.values.b[1]: the value "x" is listed twice"#,
        "",
    ),
    (
        r#"{"method": "list", "key": "id", "values": {"a": [1], "b": ["01"]}}"#,
        r#"$.values.b[0]: the value "01" is listed twice"#,
        "",
    ),
    (
        r#"{"method": "list", "key": "name", "values": {"a": [null], "b": [null]}}"#,
        "$.values.b[0]: the value NULL is listed twice",
        "",
    ),
    (r#"{"method": "list", "key": "id", "values": {"a": ["x"]}}"#, r#"$.values.a[0]: "x" is not a valid integer"#, ""),
    (
        r#"{"method": "list", "key": "id", "values": {"a": [2147483648]}}"#,
        "$.values.a[0]: 2147483648 is not a valid integer",
        "",
    ),
    (r#"{"method": "list", "key": "flag", "values": {"a": [7]}}"#, "$.values.a[0]: 7 is not a valid boolean", ""),
    (
        r#"{"method": "list", "key": "name", "values": {"": ["x"]}}"#,
        "$.values[\"\"]: the label of a partition is empty or has a NUL character",
        "",
    ),
    (
        r#"{"method": "list", "key": "name", "default": true, "values": {"default": ["x"]}}"#,
        r#"$.values.default: the label "default" belongs to the default partition"#,
        "",
    ),
    // Ranges.
    (
        r#"{"method": "range", "key": "day"}"#,
        r#"$: a range level needs exactly one of "interval", "step" and "bounds""#,
        "",
    ),
    (
        r#"{"method": "range", "key": "day", "interval": "1 day", "bounds": [1, 2]}"#,
        r#"$: a range level needs exactly one of "interval", "step" and "bounds""#,
        "",
    ),
    (r#"{"method": "range", "key": "id", "bounds": [1, 3, 2]}"#, "$.bounds[2]: the bounds do not increase", ""),
    (r#"{"method": "range", "key": "id", "bounds": [1, 1]}"#, "$.bounds[1]: the bounds do not increase", ""),
    (
        r#"{"method": "range", "key": "id", "bounds": [1]}"#,
        "$.bounds: bounds need at least two points",
        "n points make n - 1 partitions.",
    ),
    (
        r#"{"method": "range", "key": "id", "bounds": {"a": {"from": 5, "to": 5}}}"#,
        "$.bounds.a: the range is empty",
        "",
    ),
    (
        r#"{"method": "range", "key": "id", "bounds": {"a": {"from": 5, "to": 1}}}"#,
        "$.bounds.a: the range is empty",
        "",
    ),
    (
        r#"{"method": "range", "key": "id", "bounds": {"a": {"from": 1, "to": 10}, "b": {"from": 9, "to": 20}}}"#,
        "$.bounds.b: the range overlaps with $.bounds.a",
        "",
    ),
    (
        r#"{"method": "range", "key": "at", "bounds": {"a": {"from": "2024-01-01", "to": "2024-02-01T01:00:00+01:00"}, "b": {"from": "2024-01-31T23:59:59Z", "to": "2024-03-01"}}}"#,
        "$.bounds.b: the range overlaps with $.bounds.a",
        "",
    ),
    (
        r#"{"method": "range", "key": "name", "bounds": {"a": {"from": "a", "to": "a"}}}"#,
        "$.bounds.a: the range is empty",
        "",
    ),
    (
        r#"{"method": "range", "key": "id", "bounds": {"a": {"from": null, "to": 5}}}"#,
        "$.bounds.a.from: NULL cannot be a range bound",
        "default partition",
    ),
    (
        r#"{"method": "range", "key": "id", "bounds": [null, 5]}"#,
        "$.bounds[0]: NULL cannot be a range bound",
        "default partition",
    ),
    (r#"{"method": "range", "key": "id", "bounds": {"a": {"to": 5}}}"#, r#"$.bounds.a: "from" is missing"#, ""),
    (
        r#"{"method": "range", "key": "id", "bounds": {"a": {"from": "x", "to": 5}}}"#,
        r#"$.bounds.a.from: "x" is not a valid integer"#,
        "",
    ),
    (
        r#"{"method": "range", "key": "day", "bounds": ["2024-02-30", "2024-03-01"]}"#,
        r#"$.bounds[0]: "2024-02-30" is not a valid date"#,
        "",
    ),
    (
        r#"{"method": "range", "key": ["id", "name"], "bounds": [[1, "a"], [2]]}"#,
        "$.bounds[1]: a range bound needs one value per key column",
        "",
    ),
    (
        r#"{"method": "range", "key": ["id", "name"], "bounds": [["MINVALUE", "a"], [2, "b"]]}"#,
        "$.bounds[0][1]: every bound following MINVALUE must also be MINVALUE",
        "",
    ),
    (
        r#"{"method": "range", "key": ["id", "day"], "interval": "1 day"}"#,
        r#"$.interval: "interval" needs exactly one key column"#,
        "bounds",
    ),
    (
        r#"{"method": "range", "key": "id", "interval": "1 day"}"#,
        r#"$.interval: an interval on a number needs "epoch""#,
        r#""epoch""#,
    ),
    (
        r#"{"method": "range", "key": "name", "interval": "1 day"}"#,
        "$.interval: an interval needs a key that is a time",
        "Times are",
    ),
    (r#"{"method": "range", "key": "name", "step": 10}"#, "$.step: a step needs an integer or numeric key", ""),
    (r#"{"method": "range", "key": "id", "step": 0, "end": 10}"#, "$.step: the step is not positive", ""),
    (
        r#"{"method": "range", "key": "id", "step": 10, "start": 10, "end": 0}"#,
        "$.end: the end is not after the start",
        "",
    ),
    (
        r#"{"method": "range", "key": "day", "interval": "1 day", "start": "2024-01-02", "end": "2024-01-01"}"#,
        "$.end: the end is not after the start",
        "",
    ),
    (
        r#"{"method": "range", "key": "day", "interval": "1 day", "start": "yesterday"}"#,
        r#"$.start: "yesterday" is not a date"#,
        "ISO 8601",
    ),
    (
        r#"{"method": "range", "key": "day", "interval": "06:00:00"}"#,
        "$.interval: the interval of a date key has a part of a day",
        "",
    ),
    (
        r#"{"method": "range", "key": "day", "interval": "1 fortnight"}"#,
        r#"$.interval: "1 fortnight" is not an interval"#,
        "Write it as Postgres does",
    ),
    (
        r#"{"method": "range", "key": "at", "interval": "1 day", "timezone": "Mars/Olympus"}"#,
        r#"$.timezone: time zone "Mars/Olympus" is not known"#,
        "Europe/Berlin",
    ),
    (r#"{"method": "range", "key": "id", "interval": "1 day", "epoch": "min"}"#, r#"$.epoch: unknown unit "min""#, ""),
    (
        r#"{"method": "range", "key": "day", "interval": "1 day", "premake": -1}"#,
        "$.premake: premake must be a whole number from 0 to 4294967295",
        "",
    ),
    // Too many, and names that meet.
    (r#"{"method": "hash", "key": "id", "modulus": 2147483647}"#, "$: the spec makes too many partitions", ""),
    (
        r#"{"method": "hash", "key": "id", "modulus": 50000, "partitions": {"method": "hash", "key": "name", "modulus": 50000}}"#,
        "$: the spec makes too many partitions",
        "",
    ),
    (
        r#"{"method": "hash", "key": "id", "modulus": 2, "name": "{label}", "partitions": {"method": "hash", "key": "name", "modulus": 2, "name": "{label}"}}"#,
        r#"$.partitions.modulus: two tables would be called "0""#,
        "template",
    ),
];

pub fn create(spec: &str) -> String {
    format!("SELECT shard_create_parent('t', '{spec}')")
}

#[test]
fn a_mistake_in_a_spec_is_told_with_its_path() -> Result<()> {
    let mut scene = Scene::new(1)?;
    scene.client.batch_execute(TABLE)?;
    let calls: Vec<String> = SPECS.iter().map(|(spec, ..)| create(spec)).collect();
    let cases = calls.iter().zip(SPECS);
    let cases: Vec<_> = cases.map(|(call, (_, message, hint))| (call.as_str(), "22023", *message, *hint)).collect();
    scene.refuses(&cases)
}
