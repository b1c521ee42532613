//! The formats of COPY: binary streams split into rows as they arrive, and rows written as text.

/// What a binary stream begins with: signature, no flags, no header extension.
pub const HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What a binary stream ends with: the field count -1.
pub const TRAILER: [u8; 2] = (-1i16).to_be_bytes();

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Flag of the header: rows carry OIDs, as those of Postgres before 12 could.
const HAS_OIDS: u32 = 1 << 16;

/// Flags that a reader must understand; the lower half may be ignored.
const CRITICAL_FLAGS: u32 = 0xffff_0000;

/// The largest field, and the largest row: Postgres builds each in one allocation, which is never larger.
const MAX_BYTES: usize = 0x3fff_ffff;

/// A buffer smaller than this is never given back.
const KEPT_BYTES: usize = 1 << 20;

/// Why bytes are not a binary COPY stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The first bytes are others: the text format, or no COPY at all.
    #[error("the stream does not begin with the signature of binary COPY")]
    Signature,
    /// The header says that each row begins with an OID, as those of servers older than 12 can.
    #[error("the rows of the stream carry OIDs")]
    Oids,
    /// The upper half of the header's flags, where each one that is set changes what follows.
    #[error("the header has unknown critical flags {0:#010x}")]
    Flags(u32),
    /// A negative length, in bytes.
    #[error("the header extension has the length {0}")]
    Extension(i32),
    /// A negative count that is not the trailer's -1.
    #[error("a row has the field count {0}")]
    FieldCount(i16),
    /// A length in bytes that is negative, but not NULL's -1, or more than Postgres can hold in a value.
    #[error("a field has the length {0}")]
    FieldLength(i32),
    /// The lengths of its fields add up to more than Postgres can hold in a row.
    #[error("a row is larger than 1 GB")]
    RowLength,
    /// Something comes after the field count -1.
    #[error("bytes follow the end of the stream")]
    AfterTrailer,
    /// No more bytes come, within a row or between two: the sender was interrupted.
    #[error("the stream ends before its trailer")]
    Truncated,
}

/// Splits a binary COPY stream into rows, whatever the chunks that it arrives in.
///
/// Call [`feed`](Self::feed) with a chunk, then [`next`](Self::next) until it has no more, and [`end`](Self::end)
/// when the stream is over. Used so, it holds the part of a row that has arrived and one chunk, in a buffer of at
/// most a few times that size. An error is final: every later call of `next` returns it again.
#[derive(Debug)]
pub struct Splitter {
    state: State,
    buffer: Vec<u8>,
    /// Where in the buffer the bytes begin that were not handed out.
    start: usize,
    /// How far the row at `start` was looked through, from its beginning; 0 before its field count was read. It may
    /// point beyond the buffer, to the end of a field that has not arrived whole.
    scanned: usize,
    /// The field count of the row at `start`.
    width: usize,
    /// Where its fields begin, at their lengths, from its beginning.
    offsets: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    /// In the header extension, of which so many bytes are still to come.
    Extension(usize),
    Rows,
    Finished,
    Failed(CopyError),
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new()
    }
}

impl Splitter {
    /// For a stream of which nothing has arrived: its header comes first.
    pub fn new() -> Self {
        Self { state: State::Header, buffer: Vec::new(), start: 0, scanned: 0, width: 0, offsets: Vec::new() }
    }

    /// Takes the next chunk of the stream, of any size.
    pub fn feed(&mut self, chunk: &[u8]) {
        match self.state {
            State::Failed(_) => return,
            State::Finished if !chunk.is_empty() => return self.state = State::Failed(CopyError::AfterTrailer),
            _ => {}
        }
        let left = self.buffer.len() - self.start;
        // What moves is never more than what was handed out since it moved last: each byte moves once on average.
        if self.start >= left {
            self.buffer.drain(..self.start);
            self.start = 0;
            let needed = left + chunk.len();
            // One huge row does not hold its memory for the rest of the stream.
            if self.buffer.capacity() > KEPT_BYTES && self.buffer.capacity() / 4 > needed {
                self.buffer.shrink_to(KEPT_BYTES.max(2 * needed));
            }
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// The next row. `None` when more bytes are needed, and after the last row.
    ///
    /// Errors: all of [`CopyError`] but `Truncated`.
    #[expect(clippy::should_implement_trait, reason = "the row borrows from the splitter, so it is no Iterator")]
    pub fn next(&mut self) -> Result<Option<Row<'_>>, CopyError> {
        let length = match self.advance() {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.state = State::Failed(error);
                return Err(error);
            }
        };
        let begin = self.start;
        self.start += length;
        self.scanned = 0;
        Ok(Some(Row { raw: &self.buffer[begin..self.start], offsets: &self.offsets }))
    }

    /// To be asked when no more bytes will come and `next` has no more rows.
    ///
    /// Errors: `Truncated` if the trailer was not read; else the error that `next` returned.
    pub fn end(&self) -> Result<(), CopyError> {
        match self.state {
            State::Finished => Ok(()),
            State::Failed(error) => Err(error),
            _ => Err(CopyError::Truncated),
        }
    }

    /// Reads on until a row is whole, whose length is returned, or bytes are lacking.
    fn advance(&mut self) -> Result<Option<usize>, CopyError> {
        loop {
            match self.state {
                State::Rows => return self.scan_row(),
                State::Header => {
                    if !self.read_header()? {
                        return Ok(None);
                    }
                }
                State::Extension(0) => self.state = State::Rows,
                State::Extension(missing) => {
                    let skipped = missing.min(self.buffer.len() - self.start);
                    if skipped == 0 {
                        return Ok(None);
                    }
                    self.start += skipped;
                    self.state = State::Extension(missing - skipped);
                }
                State::Finished => return Ok(None),
                State::Failed(error) => return Err(error),
            }
        }
    }

    /// Whether the header was there and is read.
    fn read_header(&mut self) -> Result<bool, CopyError> {
        let bytes = &self.buffer[self.start..];
        // What is no COPY stream is refused by its first bytes, not awaited to the end of the header.
        let signed = bytes.len().min(SIGNATURE.len());
        if bytes[..signed] != SIGNATURE[..signed] {
            return Err(CopyError::Signature);
        }
        let (Some(flags), Some(extension)) = (int32(bytes, SIGNATURE.len()), int32(bytes, SIGNATURE.len() + 4)) else {
            return Ok(false);
        };
        let critical = flags as u32 & CRITICAL_FLAGS;
        if critical & HAS_OIDS != 0 {
            return Err(CopyError::Oids);
        }
        if critical != 0 {
            return Err(CopyError::Flags(critical));
        }
        let extension_bytes = usize::try_from(extension).map_err(|_| CopyError::Extension(extension))?;
        self.state = State::Extension(extension_bytes);
        self.start += HEADER.len();
        Ok(true)
    }

    /// The length of the row at `start` if all of it is there. Goes on where it stopped when bytes were lacking.
    fn scan_row(&mut self) -> Result<Option<usize>, CopyError> {
        let bytes = &self.buffer[self.start..];
        if self.scanned == 0 {
            let Some(count) = bytes.first_chunk::<2>() else { return Ok(None) };
            let count = i16::from_be_bytes(*count);
            if *bytes == TRAILER {
                self.start += TRAILER.len();
                self.state = State::Finished;
                return Ok(None);
            }
            if count == -1 {
                return Err(CopyError::AfterTrailer);
            }
            self.width = usize::try_from(count).map_err(|_| CopyError::FieldCount(count))?;
            self.offsets.clear();
            self.scanned = 2;
        }
        let mut at = self.scanned;
        while self.offsets.len() < self.width {
            let Some(length) = int32(bytes, at) else { break };
            // A row is at most 1 GB, so this is exact.
            self.offsets.push(at as u32);
            at += 4;
            if length != -1 {
                at += usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= MAX_BYTES)
                    .ok_or(CopyError::FieldLength(length))?;
            }
            if at > MAX_BYTES {
                return Err(CopyError::RowLength);
            }
        }
        self.scanned = at;
        Ok((self.offsets.len() == self.width && at <= bytes.len()).then_some(at))
    }
}

fn int32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// One row of a binary stream.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    raw: &'a [u8],
    offsets: &'a [u32],
}

impl<'a> Row<'a> {
    /// The row as it stands in the stream, field count included, to be passed on unchanged.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The value of the field `i`, counted from 0: `None` if there is no such field, `Some(None)` for NULL.
    pub fn field(&self, i: usize) -> Option<Option<&'a [u8]>> {
        let at = *self.offsets.get(i)? as usize;
        let length = int32(self.raw, at)?;
        Some(usize::try_from(length).ok().and_then(|length| self.raw.get(at + 4..at + 4 + length)))
    }

    /// How many fields the row has.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether the row is one of a table without columns.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

/// Appends one line of the text format, newline included: the text of each value, `None` for NULL (`\N`).
///
/// The delimiter is the tab. Values are in an encoding whose multibyte characters hold no ASCII bytes, as all
/// encodings of databases are. The value `\.` is no end of data here, as its backslash is doubled.
pub fn text_row<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = Option<&'a [u8]>>) {
    for (i, value) in fields.enumerate() {
        if i > 0 {
            out.push(b'\t');
        }
        match value {
            None => out.extend_from_slice(b"\\N"),
            Some(value) => escape(out, value),
        }
    }
    out.push(b'\n');
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    out.reserve(value.len());
    let mut plain = 0;
    for (at, byte) in value.iter().enumerate() {
        let escaped = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.extend_from_slice(&value[plain..at]);
        out.extend_from_slice(&[b'\\', escaped]);
        plain = at + 1;
    }
    out.extend_from_slice(&value[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_the_largest_row_and_is_given_back() {
        let row = |bytes: usize| {
            let mut out = Vec::new();
            out.extend_from_slice(&1i16.to_be_bytes());
            out.extend_from_slice(&(bytes as i32).to_be_bytes());
            out.resize(out.len() + bytes, b'x');
            out
        };
        let (small, huge) = (row(1000), row(16 << 20));
        let mut splitter = Splitter::new();
        let mut largest_after = |bytes: &[u8]| {
            let mut largest = 0;
            for chunk in bytes.chunks(8192) {
                splitter.feed(chunk);
                while splitter.next().expect("a good stream").is_some() {}
                largest = largest.max(splitter.buffer.capacity());
            }
            largest
        };
        assert!(largest_after(&HEADER) < 8192);
        assert!(largest_after(&small.repeat(5000)) < 64 << 10);
        assert!(largest_after(&huge) < 64 << 20);
        largest_after(&small.repeat(100));
        assert!(largest_after(&small.repeat(5000)) <= KEPT_BYTES);
    }
}
