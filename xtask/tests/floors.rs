//! The shape of the extension's source: arrows point down, and no file is too long to be read at once.
use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: a module uses those that stand after it, and those beside it on one line not.
const FLOORS: [&str; 17] = [
    "worker",
    "api",
    "check",
    "maintain",
    "reshard",
    "partitions",
    "schema",
    "watch",
    "router",
    "hierarchy",
    "table",
    "node",
    "catalog",
    "background",
    "pg",
    "guc",
    "error",
];
/// Whatever stands anywhere may name things.
const GROUND: &str = "name";
const LONGEST: usize = 400;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src")
}

/// Paths below the folder, with their text.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => fs::read_to_string(&path).map(|text| (path.clone(), text)).into_iter().collect(),
        })
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn floor(module: &str) -> usize {
    match FLOORS.iter().position(|floor| *floor == module) {
        Some(floor) => floor,
        None if module == GROUND => FLOORS.len(),
        None => panic!("{module} has no floor: it belongs into the list, between what uses it and what it uses"),
    }
}

/// What a line names of other modules.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let after = line.match_indices("crate::").map(|(at, text)| &line[at + text.len()..]);
    after.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
}

#[test]
fn arrows_point_down() {
    let root = source();
    let mut wrong = Vec::new();
    for (path, text) in files(&root) {
        let inside = path.strip_prefix(&root).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if module == "lib" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let up = named(line).filter(|other| *other != module && floor(other) <= floor(&module));
            wrong.extend(up.map(|other| format!("{}:{}: {module} uses {other}", inside.display(), number + 1)));
        }
    }
    assert!(wrong.is_empty(), "these point up:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let code =
        |text: &str| text.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//")).count();
    let workspace = source().join("..");
    let crates = ["src", "core", "draw", "pg_test", "xtask"].map(|folder| files(&workspace.join(folder)));
    let long = crates.into_iter().flatten().filter(|(_, text)| code(text) > LONGEST);
    let long: Vec<String> = long.map(|(path, text)| format!("{}: {}", path.display(), code(&text))).collect();
    assert!(long.is_empty(), "more than {LONGEST} lines of code:\n{}", long.join("\n"));
}
