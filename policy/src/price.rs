//! What a plan or an add-on costs: an exact amount of one currency for a period. Policy carries it;
//! nothing here reckons with it.

use std::fmt;

/// So much for each period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// How much.
    pub amount: Money,
    /// For how long.
    pub per: PricePeriod,
}

/// What a price is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PricePeriod {
    /// A billing month.
    Month,
    /// Twelve of them.
    Year,
}

impl PricePeriod {
    /// The name in documents and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            PricePeriod::Month => "month",
            PricePeriod::Year => "year",
        }
    }
}

/// An exact amount: whole minor units (cents, say) of a currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    /// In the currency's minor unit.
    pub minor: i64,
    /// Of which currency.
    pub currency: Currency,
}

/// A currency of ISO 4217.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency {
    code: [u8; 3],
    digits: u8,
}

/// Active codes by the digits of their minor unit (ISO 4217 list one, funds and metals left out).
const CURRENCIES: [(u8, &str); 4] = [
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD \
         CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP \
         GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD \
         LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB \
         PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC \
         SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW \
         ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

impl Currency {
    /// By its three-letter code.
    pub fn of(code: &str) -> Option<Currency> {
        let letters: [u8; 3] = code.as_bytes().try_into().ok()?;
        let known = |codes: &str| codes.split_ascii_whitespace().any(|known| known == code);
        let (digits, _) = CURRENCIES.iter().find(|(_, codes)| known(codes))?;
        Some(Currency { code: letters, digits: *digits })
    }

    /// Its three-letter code.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or_default()
    }

    /// Digits after the point of an amount.
    pub fn digits(&self) -> u8 {
        self.digits
    }
}

impl Money {
    /// An amount as written: digits, with at most as many after a point as the currency has.
    pub(crate) fn parse(text: &str, currency: Currency) -> Option<Money> {
        let (whole, part) = text.split_once('.').map_or((text, None), |(w, p)| (w, Some(p)));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let places = usize::from(currency.digits);
        if !digits(whole) || part.is_some_and(|part| !digits(part) || part.len() > places) {
            return None;
        }
        let part = part.unwrap_or_default();
        let minor = format!("{whole}{part:0<places$}").parse().ok()?;
        Some(Money { minor, currency })
    }
}

impl fmt::Display for Money {
    /// As it is written in documents, without the currency: `499.00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = usize::from(self.currency.digits);
        let unit = 10_u64.pow(self.currency.digits.into());
        let sign = if self.minor < 0 { "-" } else { "" };
        let minor = self.minor.unsigned_abs();
        let (whole, part) = (minor / unit, minor % unit);
        if places == 0 {
            write!(f, "{sign}{whole}")
        } else {
            write!(f, "{sign}{whole}.{part:0>places$}")
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_in_the_currencys_own_digits() {
        for (text, code, expected) in [
            ("499.00", "BRL", Some(("499.00", 49_900))),
            ("499.5", "EUR", Some(("499.50", 49_950))),
            ("0", "USD", Some(("0.00", 0))),
            ("1000", "JPY", Some(("1000", 1_000))),
            ("1.234", "KWD", Some(("1.234", 1_234))),
            ("0.01", "USD", Some(("0.01", 1))),
            ("1.0", "JPY", None),
            ("1.001", "USD", None),
            ("-1", "USD", None),
            ("1,00", "USD", None),
            ("1.", "USD", None),
            (".5", "USD", None),
            ("1e3", "USD", None),
            ("99999999999999999999", "USD", None),
        ] {
            let currency = Currency::of(code).expect("a currency");
            let money = Money::parse(text, currency);
            let shown = money.map(|money| (money.to_string(), money.minor));
            let expected = expected.map(|(shown, minor)| (shown.to_owned(), minor));
            assert_eq!(shown, expected, "{text} {code}");
        }
        assert_eq!(Currency::of("brl"), None);
        assert_eq!(Currency::of("XXX"), None);
    }
}
