//! What an event's data says on its meter, as the meter's table reads it.
//!
//! | aggregate | read | the event's quantity |
//! |---|---|---|
//! | none: the meter has no table | `quantity`, 1 if it is left out | that |
//! | sum | its field; `quantity` may be left out as above | that |
//! | max, last, gauge | its field | that; of a gauge, how high it is now |
//! | count | nothing | 1 |
//! | distinct | its field: a text, the member | 1 |

use std::collections::BTreeMap;

use orbit_policy::{Aggregate, Meter};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::quantity::nano;
use super::request::Envelope;
use super::usage::{Reason, Refusal};

/// Longest member, in bytes.
const MAX_MEMBER_BYTES: usize = 1024;
/// The field of a meter without a table.
const QUANTITY: &str = "quantity";
/// A quantity of one.
const ONE_NANO: i128 = 1_000_000_000;

/// What is in an event's data.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) quantity_nano: i128,
    pub(super) app: Option<String>,
    /// Of a meter of distinct ones.
    pub(super) member: Option<String>,
}

#[derive(Default, Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    quantity: Option<&'a RawValue>,
    app: Option<String>,
}

/// Reads the data of an event on `meter`; `None`: no table defines it.
pub(super) fn read(event: &Envelope<'_>, meter: Option<&Meter>) -> Result<Reading, Refusal> {
    if event.data_base64.is_some() {
        let detail = "data_base64 is not read: send data as JSON";
        return Err(Refusal::new(Reason::InvalidData, detail));
    }
    let data = event.data.map_or(Ok(Data::default()), parse::<Data<'_>>)?;
    let aggregate = meter.map_or(Aggregate::Sum, |meter| meter.aggregate);
    let field = meter.map_or(QUANTITY, |meter| &*meter.field);
    let value = || match (field, event.data) {
        (QUANTITY, _) => Ok(data.quantity),
        (_, None) => Ok(None),
        (_, Some(text)) => {
            parse::<BTreeMap<String, &RawValue>>(text).map(|mut members| members.remove(field))
        }
    };
    let (mut quantity_nano, mut member) = (ONE_NANO, None);
    match aggregate {
        Aggregate::Count => {}
        Aggregate::Distinct => member = Some(text_of(field, value()?)?),
        Aggregate::Sum | Aggregate::Max | Aggregate::Last | Aggregate::Gauge => {
            let may_be_absent = aggregate == Aggregate::Sum && field == QUANTITY;
            match value()? {
                Some(value) => quantity_nano = quantity(field, value)?,
                None if may_be_absent => {}
                None => {
                    let detail =
                        format!("data.{field} is missing: the meter reads its value there");
                    return Err(Refusal::new(Reason::InvalidQuantity, detail));
                }
            }
        }
    }
    Ok(Reading { quantity_nano, app: data.app, member })
}

fn parse<'a, T: Deserialize<'a>>(data: &'a RawValue) -> Result<T, Refusal> {
    serde_json::from_str(data.get()).map_err(|error| {
        Refusal::new(Reason::InvalidData, format!("data must be an object: {error}"))
    })
}

/// A number is taken as it is written; a string is what is in it.
fn quantity(field: &str, value: &RawValue) -> Result<i128, Refusal> {
    let quantity = match serde_json::from_str::<String>(value.get()) {
        Ok(text) => nano(&text),
        Err(_) => nano(value.get()),
    };
    quantity.map_err(|error| Refusal::new(Reason::InvalidQuantity, format!("{field} {error}")))
}

/// A member as a text of its own.
fn text_of(field: &str, value: Option<&RawValue>) -> Result<String, Refusal> {
    let member = value.and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    member.filter(|member| (1..=MAX_MEMBER_BYTES).contains(&member.len())).ok_or_else(|| {
        let detail = format!(
            "data.{field} must be a text of 1 to {MAX_MEMBER_BYTES} bytes: who or what is counted"
        );
        Refusal::new(Reason::InvalidData, detail)
    })
}
