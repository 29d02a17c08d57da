//! TOML text to a tree of values that know where they stand in the text.
//!
//! Built on the event parser of the `toml` crate so that one pass reports every syntax error
//! and a document of 400 000 tables costs tens of bytes a value. Strings without escapes are
//! borrowed from the text.

use std::borrow::Cow;

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, RecursionGuard, parse_document};
use toml_parser::{ErrorSink, ParseError, Source, Span};

/// Arrays and inline tables may nest this deep; deeper ones are refused.
const MAX_DEPTH: u32 = 16;

/// A value and the byte at which it starts.
#[derive(Debug)]
pub(crate) struct Node<'i> {
    pub(crate) at: u32,
    pub(crate) value: Value<'i>,
}

#[derive(Debug)]
pub(crate) enum Value<'i> {
    Text(Cow<'i, str>),
    Integer(i64),
    Float,
    Boolean(bool),
    DateTime,
    Array(Vec<Node<'i>>),
    Table(Table<'i>),
}

impl Value<'_> {
    /// The type as an operator would call it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float => "a float",
            Value::Boolean(_) => "a boolean",
            Value::DateTime => "a date-time",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Key<'i> {
    pub(crate) at: u32,
    pub(crate) text: Cow<'i, str>,
}

/// Keys and values in the order of the text; no key twice.
#[derive(Debug, Default)]
pub(crate) struct Table<'i> {
    pub(crate) entries: Vec<(Key<'i>, Node<'i>)>,
}

impl Table<'_> {
    fn position(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|(k, _)| k.text == key)
    }
}

/// A mistake of syntax: the byte at which it stands, and what it is.
pub(crate) struct SyntaxError {
    pub(crate) at: u32,
    pub(crate) message: String,
}

/// Reads a whole document. The tree holds what could be read even when there are errors.
pub(crate) fn parse(text: &str) -> (Table<'_>, Vec<SyntaxError>) {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut errors: Vec<ParseError> = Vec::new();
    let mut builder = Builder::new(source);
    parse_document(&tokens, &mut RecursionGuard::new(&mut builder, MAX_DEPTH), &mut errors);
    let root = builder.finish(&mut errors);
    let errors = errors.into_iter().map(|error| SyntaxError {
        at: error.unexpected().or(error.context()).map_or(0, |span| span.start() as u32),
        message: describe(&error),
    });
    (root, errors.collect())
}

fn describe(error: &ParseError) -> String {
    use std::fmt::Write;
    let mut message = error.description().to_owned();
    for (index, expected) in error.expected().unwrap_or_default().iter().enumerate() {
        let joint = if index == 0 { ", expected" } else { " or" };
        let _infallible = match expected {
            toml_parser::Expected::Literal(literal) => write!(message, "{joint} `{literal}`"),
            toml_parser::Expected::Description(text) => write!(message, "{joint} {text}"),
            _ => Ok(()),
        };
    }
    message
}

/// What an array or inline table under construction hangs on to.
enum Open<'i> {
    Array { at: u32, items: Vec<Node<'i>> },
    Inline { at: u32, table: Table<'i>, path: Vec<Key<'i>> },
}

struct Header<'i> {
    path: Vec<Key<'i>>,
    is_array: bool,
}

struct Builder<'i> {
    source: Source<'i>,
    root: Table<'i>,
    /// The table that `key = value` lines go to, put in its place when the next header opens.
    current: Table<'i>,
    header: Option<Header<'i>>,
    in_header: bool,
    path: Vec<Key<'i>>,
    open: Vec<Open<'i>>,
}

impl<'i> Builder<'i> {
    fn new(source: Source<'i>) -> Self {
        Builder {
            source,
            root: Table::default(),
            current: Table::default(),
            header: None,
            in_header: false,
            path: Vec::new(),
            open: Vec::new(),
        }
    }

    fn finish(mut self, errors: &mut dyn ErrorSink) -> Table<'i> {
        self.close_current(errors);
        self.root
    }

    fn close_current(&mut self, errors: &mut dyn ErrorSink) {
        let table = std::mem::take(&mut self.current);
        let Some(Header { mut path, is_array }) = self.header.take() else {
            self.root = table;
            return;
        };
        let Some(last) = path.pop() else { return };
        let Some(parent) = descend(&mut self.root, path, errors) else { return };
        place_table(parent, last, table, is_array, errors);
    }

    fn open_header(&mut self, is_array: bool, errors: &mut dyn ErrorSink) {
        self.close_current(errors);
        self.header = Some(Header { path: Vec::new(), is_array });
        self.in_header = true;
        self.path.clear();
    }

    fn close_header(&mut self) {
        self.in_header = false;
        let path = std::mem::take(&mut self.path);
        if let Some(header) = &mut self.header {
            header.path = path;
        }
    }

    fn deliver(&mut self, node: Node<'i>, errors: &mut dyn ErrorSink) {
        match self.open.last_mut() {
            Some(Open::Array { items, .. }) => items.push(node),
            Some(Open::Inline { table, path, .. }) => insert(table, path, node, errors),
            None => insert(&mut self.current, &mut self.path, node, errors),
        }
    }

    fn key_path(&mut self) -> &mut Vec<Key<'i>> {
        match self.open.last_mut() {
            Some(Open::Inline { path, .. }) => path,
            _ => &mut self.path,
        }
    }
}

fn duplicate(at: u32) -> ParseError {
    let at = at as usize;
    ParseError::new("the key is already there").with_unexpected(Span::new_unchecked(at, at + 1))
}

fn insert<'i>(
    table: &mut Table<'i>,
    path: &mut Vec<Key<'i>>,
    node: Node<'i>,
    errors: &mut dyn ErrorSink,
) {
    let Some(last) = path.pop() else { return };
    let parent = if path.is_empty() { Some(table) } else { descend(table, path.drain(..), errors) };
    let Some(parent) = parent else { return };
    if parent.position(&last.text).is_some() {
        errors.report_error(duplicate(last.at));
        return;
    }
    parent.entries.push((last, node));
}

/// Walks down `path`, making tables that are not there, entering the last item of arrays.
fn descend<'t, 'i>(
    mut table: &'t mut Table<'i>,
    path: impl IntoIterator<Item = Key<'i>>,
    errors: &mut dyn ErrorSink,
) -> Option<&'t mut Table<'i>> {
    for key in path {
        let at = key.at;
        let index = table.position(&key.text).unwrap_or_else(|| {
            let node = Node { at, value: Value::Table(Table::default()) };
            table.entries.push((key, node));
            table.entries.len() - 1
        });
        let mut value = &mut table.entries[index].1.value;
        if let Value::Array(items) = value {
            value = if let Some(item) = items.last_mut() {
                &mut item.value
            } else {
                errors.report_error(duplicate(at));
                return None;
            };
        }
        let Value::Table(inner) = value else {
            errors.report_error(duplicate(at));
            return None;
        };
        table = inner;
    }
    Some(table)
}

fn place_table<'i>(
    parent: &mut Table<'i>,
    key: Key<'i>,
    table: Table<'i>,
    is_array: bool,
    errors: &mut dyn ErrorSink,
) {
    let at = key.at;
    let node = Node { at, value: Value::Table(table) };
    match (parent.position(&key.text), is_array) {
        (None, false) => parent.entries.push((key, node)),
        (None, true) => {
            parent.entries.push((key, Node { at, value: Value::Array(vec![node]) }));
        }
        (Some(index), true) => match &mut parent.entries[index].1.value {
            Value::Array(items) => items.push(node),
            _ => errors.report_error(duplicate(at)),
        },
        (Some(_), false) => errors.report_error(duplicate(at)),
    }
}

impl EventReceiver for Builder<'_> {
    fn std_table_open(&mut self, _span: Span, errors: &mut dyn ErrorSink) {
        self.open_header(false, errors);
    }

    fn std_table_close(&mut self, _span: Span, _errors: &mut dyn ErrorSink) {
        self.close_header();
    }

    fn array_table_open(&mut self, _span: Span, errors: &mut dyn ErrorSink) {
        self.open_header(true, errors);
    }

    fn array_table_close(&mut self, _span: Span, _errors: &mut dyn ErrorSink) {
        self.close_header();
    }

    fn inline_table_open(&mut self, span: Span, _errors: &mut dyn ErrorSink) -> bool {
        let at = span.start() as u32;
        self.open.push(Open::Inline { at, table: Table::default(), path: Vec::new() });
        true
    }

    fn inline_table_close(&mut self, _span: Span, errors: &mut dyn ErrorSink) {
        if let Some(Open::Inline { at, table, .. }) = self.open.pop() {
            self.deliver(Node { at, value: Value::Table(table) }, errors);
        }
    }

    fn array_open(&mut self, span: Span, _errors: &mut dyn ErrorSink) -> bool {
        self.open.push(Open::Array { at: span.start() as u32, items: Vec::new() });
        true
    }

    fn array_close(&mut self, _span: Span, errors: &mut dyn ErrorSink) {
        if let Some(Open::Array { at, items }) = self.open.pop() {
            self.deliver(Node { at, value: Value::Array(items) }, errors);
        }
    }

    fn simple_key(&mut self, span: Span, kind: Option<Encoding>, errors: &mut dyn ErrorSink) {
        let mut text = Cow::Borrowed("");
        if let Some(raw) = self.source.get(span) {
            let raw = toml_parser::Raw::new_unchecked(raw.as_str(), kind, span);
            raw.decode_key(&mut text, errors);
        }
        let at = span.start() as u32;
        self.key_path().push(Key { at, text });
    }

    fn newline(&mut self, _span: Span, _errors: &mut dyn ErrorSink) {
        // A line that broke off in the middle must not leave its key to the next one.
        if self.open.is_empty() && !self.in_header {
            self.path.clear();
        }
    }

    fn scalar(&mut self, span: Span, kind: Option<Encoding>, errors: &mut dyn ErrorSink) {
        let Some(raw) = self.source.get(span) else { return };
        let raw = toml_parser::Raw::new_unchecked(raw.as_str(), kind, span);
        let mut text = Cow::Borrowed("");
        let value = match raw.decode_scalar(&mut text, errors) {
            ScalarKind::String => Value::Text(text),
            ScalarKind::Boolean(value) => Value::Boolean(value),
            ScalarKind::DateTime => Value::DateTime,
            ScalarKind::Float => Value::Float,
            ScalarKind::Integer(radix) => {
                if let Ok(value) = i64::from_str_radix(&text, radix.value()) {
                    Value::Integer(value)
                } else {
                    errors.report_error(
                        ParseError::new("the integer does not fit 64 bits").with_unexpected(span),
                    );
                    Value::Integer(0)
                }
            }
        };
        self.deliver(Node { at: span.start() as u32, value }, errors);
    }
}
