//! A strict reader of one JSON object (RFC 8259) that copies nothing: what it returns points into its input.

/// One member of the object.
pub(super) struct Member<'a> {
    pub name: &'a [u8],
    /// The characters between the quotes when the value is a string without escapes.
    pub text: Option<&'a [u8]>,
}

const MAX_MEMBERS: usize = 32;
const MAX_DEPTH: usize = 16;

/// The members of the object that `input` is; `None` if it is not exactly one JSON object, a name stands twice or is
/// written with escapes, or there are more than 32 members.
pub(super) fn object(input: &[u8]) -> Option<Vec<Member<'_>>> {
    std::str::from_utf8(input).ok()?;
    let mut reader = Reader { input, at: 0 };
    let mut members: Vec<Member<'_>> = Vec::with_capacity(MAX_MEMBERS);
    reader.space();
    reader.members(|reader, name| {
        let name = name.plain()?;
        if members.len() == MAX_MEMBERS || members.iter().any(|member| member.name == name) {
            return None;
        }
        let text =
            if reader.peek()? == b'"' { reader.string()?.plain() } else { reader.value(0).map(|()| None)? };
        members.push(Member { name, text });
        Some(())
    })?;
    reader.space();
    (reader.at == input.len()).then_some(members)
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

struct Text<'a> {
    raw: &'a [u8],
    has_escapes: bool,
}

impl<'a> Text<'a> {
    fn plain(&self) -> Option<&'a [u8]> {
        (!self.has_escapes).then_some(self.raw)
    }
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// `{ name : value , ... }`; `member` reads the value.
    fn members(&mut self, mut member: impl FnMut(&mut Self, Text<'a>) -> Option<()>) -> Option<()> {
        self.eat(b'{')?;
        self.list(b'}', |reader| {
            let name = reader.string()?;
            reader.space();
            reader.eat(b':')?;
            reader.space();
            member(reader, name)
        })
    }

    /// Items parted by commas up to `end`.
    fn list(&mut self, end: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.space();
        if self.peek()? == end {
            return self.eat(end);
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            match self.next()? {
                b',' => (),
                byte if byte == end => return Some(()),
                _ => return None,
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth == MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'{' => self.members(|reader, _| reader.value(depth + 1)),
            b'[' => {
                self.eat(b'[')?;
                self.list(b']', |reader| reader.value(depth + 1))
            }
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Option<()> {
        word.iter().try_for_each(|byte| self.eat(*byte))
    }

    fn string(&mut self) -> Option<Text<'a>> {
        self.eat(b'"')?;
        let start = self.at;
        let mut has_escapes = false;
        loop {
            match self.next()? {
                b'"' => {
                    return Some(Text { raw: &self.input[start..self.at - 1], has_escapes });
                }
                b'\\' => {
                    has_escapes = true;
                    self.escape()?;
                }
                0..=0x1f => return None,
                _ => (),
            }
        }
    }

    /// Surrogates are not paired up: a string with escapes is passed over, never used.
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => (0..4).try_for_each(|_| self.next()?.is_ascii_hexdigit().then_some(())),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}
