//! The install script of the extension: pgrx leaves what it knows of each SQL function in a section of the library, and its own
//! `pgrx-sql-entity-graph` puts it in order. (`cargo pgrx` does the same, but building it takes minutes.)
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use elf::ElfBytes;
use elf::endian::AnyEndian;
use pgrx_sql_entity_graph::section::{decode_entities, is_schema_section_name};
use pgrx_sql_entity_graph::{ControlFile, PgrxSql, SqlGraphEntity};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [library, control, version] = &args[..] else { bail!("usage: install_script LIBRARY CONTROL VERSION") };
    print!("{}", install_script(Path::new(library), Path::new(control), version)?);
    Ok(())
}

/// The SQL that `CREATE EXTENSION` runs, by what is in `library`.
fn install_script(library: &Path, control: &Path, version: &str) -> Result<String> {
    let bytes = std::fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
    let section = schema_section(&bytes).with_context(|| format!("cannot read {}", library.display()))?;
    let control =
        ControlFile::from_path_with_cargo_version(control, version).context("cannot read the control file")?;
    let versioned_library = control.module_pathname.is_none();
    let root = std::iter::once(SqlGraphEntity::ExtensionRoot(control));
    // Its errors are no std errors.
    let entities = decode_entities(section).map_err(|error| anyhow!("{error:#}"))?;
    PgrxSql::build(root.chain(entities), "shardkeeper".to_owned(), versioned_library)
        .and_then(|sql| sql.to_sql())
        .map_err(|error| anyhow!("{error:#}"))
}

fn schema_section(bytes: &[u8]) -> Result<&[u8]> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let (headers, names) = file.section_headers_with_strtab()?;
    let (headers, names) = (headers.context("it has no sections")?, names.context("its sections have no names")?);
    let header = headers
        .iter()
        .find(|header| names.get(header.sh_name as usize).is_ok_and(is_schema_section_name))
        .context("it has no section of pgrx's")?;
    Ok(file.section_data(&header)?.0)
}
