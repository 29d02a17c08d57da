//! The `[[meter]]` table as it stands. What a built-in meter says where a table is silent is added
//! later, in `catalogue/meters.rs`.

use super::fields::{Fields, Located, Text};
use super::kinds::is_token;
use crate::diagnostics::Place;
use crate::meters::{Aggregate, MeterValue};

#[derive(Debug)]
pub(crate) struct MeterDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) title: Option<Text<'i>>,
    pub(crate) unit: Option<Text<'i>>,
    pub(crate) aggregate: Option<Located<Aggregate>>,
    pub(crate) value: Option<Located<MeterValue>>,
    /// The name after `data.`.
    pub(crate) field: Option<Located<Text<'i>>>,
    pub(crate) apps: Option<Vec<Located<Text<'i>>>>,
    pub(crate) routes: Option<Vec<Located<Text<'i>>>>,
    pub(crate) place: Place,
    /// Without a finding of its own: what is missing is not there, rather than wrong.
    pub(crate) clean: bool,
}

const AGGREGATES: &[(&str, Aggregate)] = &[
    ("count", Aggregate::Count),
    ("sum", Aggregate::Sum),
    ("max", Aggregate::Max),
    ("distinct", Aggregate::Distinct),
    ("last", Aggregate::Last),
    ("gauge", Aggregate::Gauge),
];

/// What a value may be, for people.
const VALUES: &str = "cost, request_bytes, response_bytes, end_user, client_ip, \
                      request_header:NAME, response_header:NAME, event";

/// A header's name in lower case fits the buffer that is searched for without allocating.
const MAX_HEADER_BYTES: usize = 64;

impl<'i> MeterDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.id("id");
        let title = fields.text("title").map(|title| title.value);
        let unit = fields.text("unit").map(|unit| unit.value);
        let aggregate = fields.word("aggregate", AGGREGATES);
        let value = read_value(&mut fields);
        let field = read_field(&mut fields);
        let apps = fields.texts("apps");
        let routes = fields.texts("routes");
        if let Some(id) = &id
            && !id.value.starts_with(|first: char| first.is_ascii_lowercase())
        {
            // As the `type` of a CloudEvent has to.
            fields.find(id.place, "id", "a meter's id starts with a letter");
        }
        if let Some(id) = id.as_ref().filter(|id| id.value == "refusals") {
            fields.find(id.place, "id", "`refusals` is what refused requests are counted on");
        }
        let place = fields.place;
        let clean = fields.finish();
        let id = id?;
        Some(MeterDoc { id, title, unit, aggregate, value, field, apps, routes, place, clean })
    }
}

fn read_value(fields: &mut Fields<'_, '_, '_>) -> Option<Located<MeterValue>> {
    let Located { value: text, place } = fields.text("value")?;
    let value = match text.split_once(':') {
        None => match &*text {
            "cost" => MeterValue::Cost,
            "request_bytes" => MeterValue::RequestBytes,
            "response_bytes" => MeterValue::ResponseBytes,
            "end_user" => MeterValue::EndUser,
            "client_ip" => MeterValue::ClientIp,
            "event" => MeterValue::Event,
            _ => return unknown_value(fields, place, &text),
        },
        Some(("request_header", name)) => {
            let name = header(fields, place, name)?;
            match &*name {
                "authorization" | "x-api-key" => {
                    fields.find(place, "value", format!("`{name}` may hold the client's key"));
                }
                _ if name.starts_with("x-orbit-") => {
                    let message = "a client's `X-Orbit-` fields are not believed";
                    fields.find(place, "value", message);
                }
                _ => {}
            }
            MeterValue::RequestHeader(name)
        }
        Some(("response_header", name)) => MeterValue::ResponseHeader(header(fields, place, name)?),
        Some(_) => return unknown_value(fields, place, &text),
    };
    Some(Located { value, place })
}

fn unknown_value(
    fields: &mut Fields<'_, '_, '_>,
    place: Place,
    text: &str,
) -> Option<Located<MeterValue>> {
    fields.find(place, "value", format!("`{text}` is not one of {VALUES}"));
    None
}

fn header(fields: &mut Fields<'_, '_, '_>, place: Place, name: &str) -> Option<Box<str>> {
    if is_token(name) && name.len() <= MAX_HEADER_BYTES {
        return Some(name.to_ascii_lowercase().into());
    }
    let message = format!("`{name}` is not a header name of at most {MAX_HEADER_BYTES} bytes");
    fields.find(place, "value", message);
    None
}

/// `data.NAME`, without the `data.`.
fn read_field<'i>(fields: &mut Fields<'_, 'i, '_>) -> Option<Located<Text<'i>>> {
    let Located { value: text, place } = fields.text("field")?;
    let name = match &text {
        Text::Borrowed(text) => text.strip_prefix("data.").map(Text::Borrowed),
        Text::Owned(text) => text.strip_prefix("data.").map(|name| Text::Owned(name.to_owned())),
    };
    let is_name = |name: &Text<'_>| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (1..=64).contains(&name.len()) && name.bytes().all(plain)
    };
    let name = name.filter(is_name);
    if name.is_none() {
        let message = "a field is `data.NAME`, a member of the event's data: letters, digits, `_` \
                       and `-`";
        fields.find(place, "field", message);
    }
    name.map(|value| Located { value, place })
}
