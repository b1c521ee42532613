//! Which leaf of a partition tree takes a row of the binary COPY format: for many rows, with all look-ups done once.

use super::attribute;
use super::context::{Context, Restore};
use super::expression::Expressions;
use super::key_router::lacks;
use super::partition::{Key, Opened, Partitioned};
use crate::error::{Report, Result};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::{self, Datum, Oid};
use shardkeeper_core::copy;
use std::ptr::addr_of_mut;

/// What received values may take before their memory is used again.
const SCRATCH: usize = 64 * 1024;

/// A partition tree as it was when each of its tables was first needed; lives within one transaction. Partitions that
/// are added later are not seen, so hold a lock against that.
pub struct Router {
    columns: Vec<String>,
    /// The root first, then the other partitioned tables in the order in which rows reached them.
    levels: Vec<Level>,
    /// Of single rows, with the bytes used since it was reset.
    scratch: Context,
    used: usize,
    /// A field as receive functions want it: with a byte after it, and writable.
    field: Vec<u8>,
    /// Open relations belong to it, whatever subtransaction a row is routed in.
    owner: pg_sys::ResourceOwner,
    /// What lives as long as the router. Dropped after all that lives in it.
    kept: Context,
}

impl Router {
    /// Rows have their values in the order of `columns`.
    ///
    /// Errors: 42809 `root` is not partitioned; 22023 a key column is not among `columns`.
    pub fn open(root: Oid, columns: &[String]) -> Result<Self> {
        let mut router = Self {
            columns: columns.to_vec(),
            levels: Vec::new(),
            scratch: Context::new(c"shardkeeper routed rows"),
            used: 0,
            field: Vec::new(),
            // SAFETY: a plain pointer of the process, set within a transaction.
            owner: unsafe { pg_sys::CurrentResourceOwner },
            kept: Context::new(c"shardkeeper router"),
        };
        router.load(root)?;
        Ok(router)
    }

    /// The leaf that takes the row.
    ///
    /// Errors: 22P04 another number of fields than columns; 22P03 bytes that a type does not take, and what else its
    /// receive function raises; 23514 no partition accepts the row; 22023 a key column of a level that no row reached
    /// before is not among the columns.
    pub fn leaf(&mut self, fields: copy::Row<'_>) -> Result<Oid> {
        if fields.len() != self.columns.len() {
            let message = format!("row has {} fields for {} columns", fields.len(), self.columns.len());
            return Report::new(Code::ERRCODE_BAD_COPY_FILE_FORMAT, message).into();
        }
        if self.used > SCRATCH {
            self.scratch.reset();
            self.used = 0;
        }
        let mut at = 0;
        loop {
            let Self { levels, scratch, field, used, .. } = self;
            let level = &mut levels[at];
            let mut row = Row { fields, field, used };
            let partition = scratch.within(|| level.partition_of(&mut row))?;
            at = match level.children[partition] {
                Partition::Leaf(leaf) => return Ok(leaf),
                Partition::Level(at) => at,
                Partition::New(table) => {
                    let new = self.load(table)?;
                    self.levels[at].children[partition] = Partition::Level(new);
                    new
                }
            }
        }
    }

    fn load(&mut self, table: Oid) -> Result<usize> {
        // SAFETY: the variable is the process's own; the owner lives as long as the router's transaction.
        let _restore = unsafe { Restore::new(addr_of_mut!(pg_sys::CurrentResourceOwner), self.owner) };
        let level = self.kept.within(|| Level::load(table, &self.columns, &self.kept))?;
        self.levels.push(level);
        Ok(self.levels.len() - 1)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // SAFETY: as in `load`.
        let _restore = unsafe { Restore::new(addr_of_mut!(pg_sys::CurrentResourceOwner), self.owner) };
        self.levels.clear();
    }
}

/// One partitioned table of the tree.
struct Level {
    // Fields are dropped in this order, and the expressions refer to the table.
    expressions: Option<Expressions>,
    /// How to receive each column that the expressions refer to.
    operands: Vec<(pg_sys::AttrNumber, Receive)>,
    /// Each part of the key; `None` is an expression.
    parts: Vec<Option<Receive>>,
    children: Vec<Partition>,
    table: Partitioned,
}

#[derive(Clone, Copy)]
enum Partition {
    Leaf(Oid),
    /// A partitioned table that was loaded.
    Level(usize),
    /// One that no row has reached.
    New(Oid),
}

impl Level {
    fn load(table: Oid, columns: &[String], context: &Context) -> Result<Self> {
        let table = Partitioned::open(table)?;
        let receive = |number| Receive::of(table.table(), number, columns, context);
        let parts = table.columns().map(|number| number.map(receive).transpose()).collect::<Result<_>>()?;
        let children = (0..table.len())
            .map(|at| match (table.is_leaf(at), table.oid(at)) {
                (true, leaf) => Partition::Leaf(leaf),
                (false, table) => Partition::New(table),
            })
            .collect();
        let expressions = Expressions::prepare(table.table(), table.expressions());
        let needed = expressions.as_ref().map_or(&[][..], Expressions::columns);
        let operands = needed.iter().map(|&number| Ok((number, receive(number)?))).collect::<Result<_>>()?;
        Ok(Self { expressions, operands, parts, children, table })
    }

    fn partition_of(&mut self, row: &mut Row<'_>) -> Result<usize> {
        if let Some(expressions) = &mut self.expressions {
            let mut operands = self.operands.iter_mut();
            expressions.evaluate(|_| match operands.next() {
                Some((_, receive)) => row.value(receive),
                None => Ok((Datum::null(), true)),
            })?;
        }
        let mut evaluated = self.expressions.iter().flat_map(Expressions::results);
        let mut key = Key::new();
        for (at, part) in self.parts.iter_mut().enumerate() {
            match part {
                Some(receive) => key.set(at, row.value(receive)?),
                None => key.set(at, evaluated.next().unwrap_or((Datum::null(), true))),
            }
        }
        self.table.of(&mut key)
    }
}

/// How the values of a column are received.
struct Receive {
    /// Which field of a row.
    field: usize,
    function: pg_sys::FmgrInfo,
    parameter: Oid,
    modifier: i32,
}

impl Receive {
    fn of(table: &Opened, number: pg_sys::AttrNumber, columns: &[String], context: &Context) -> Result<Self> {
        let column = table.column(number);
        let name = attribute::name(column);
        let Some(field) = columns.iter().position(|column| *column == name) else {
            return Err(lacks(table, &name).into());
        };
        let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        let mut found = pg_sys::FmgrInfo::default();
        // SAFETY: raises if the type has no such function; the function found is kept as long as the context.
        unsafe {
            pg_sys::getTypeBinaryInputInfo(column.atttypid, &mut function, &mut parameter);
            pg_sys::fmgr_info_cxt(function, &mut found, context.as_ptr());
        }
        Ok(Self { field, function: found, parameter, modifier: column.atttypmod })
    }
}

/// A row while it is routed.
struct Row<'a> {
    fields: copy::Row<'a>,
    field: &'a mut Vec<u8>,
    used: &'a mut usize,
}

impl Row<'_> {
    /// The value of a field, in the current memory context.
    fn value(&mut self, receive: &mut Receive) -> Result<(Datum, bool)> {
        let Some(bytes) = self.fields.field(receive.field).flatten() else { return Ok((Datum::null(), true)) };
        let Ok(length) = i32::try_from(bytes.len()) else { return Err(malformed(receive.field)) };
        // Arrays and composites are received piece by piece, each made to end with a zero in place.
        self.field.clear();
        self.field.extend_from_slice(bytes);
        self.field.push(0);
        *self.used += bytes.len() + 64;
        let mut buffer = pg_sys::StringInfoData {
            data: self.field.as_mut_ptr().cast(),
            len: length,
            maxlen: length.saturating_add(1),
            cursor: 0,
        };
        // SAFETY: the receive function of the column's own type gets a buffer that it may write to until its end and
        // the byte after; what it returns does not point into it.
        let value = unsafe {
            pg_sys::ReceiveFunctionCall(&mut receive.function, &mut buffer, receive.parameter, receive.modifier)
        };
        if buffer.cursor != length {
            return Err(malformed(receive.field));
        }
        Ok((value, false))
    }
}

fn malformed(field: usize) -> crate::error::Error {
    Report::new(Code::ERRCODE_INVALID_BINARY_REPRESENTATION, "incorrect binary data format")
        .detail(format!("It is field {} of the row.", field + 1))
        .into()
}
