//! JSON read by another reader, which keeps what is in it twice, and written anew.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

pub enum Json {
    Null,
    Truth(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl Json {
    /// How deep it is, and how many values and names it has at most.
    pub fn extent(&self) -> (usize, usize) {
        let inner = |all: &mut dyn Iterator<Item = (usize, usize)>, own: usize| {
            all.fold((1, 1 + own), |(depth, values), (d, v)| (depth.max(d + 1), values + v))
        };
        match self {
            Json::List(list) => inner(&mut list.iter().map(Json::extent), 0),
            Json::Map(map) => inner(&mut map.iter().map(|(_, value)| value.extent()), map.len()),
            _ => (0, 1),
        }
    }

    /// No two readers need agree on its last digit.
    pub fn has_float(&self) -> bool {
        match self {
            Json::Float(_) => true,
            Json::List(list) => list.iter().any(Json::has_float),
            Json::Map(map) => map.iter().any(|(_, value)| value.has_float()),
            _ => false,
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| serde_json::to_string(text).map_err(|_| fmt::Error);
        match self {
            Json::Null => f.write_str("null"),
            Json::Truth(truth) => write!(f, "{truth}"),
            Json::Integer(number) => write!(f, "{number}"),
            Json::Float(number) => write!(f, "{number:?}"),
            Json::Text(found) => f.write_str(&text(found)?),
            Json::List(list) => {
                f.write_str("[ ")?;
                for (at, value) in list.iter().enumerate() {
                    write!(f, "{}{value}", if at == 0 { "" } else { " ,\n" })?;
                }
                f.write_str("]")
            }
            Json::Map(map) => {
                f.write_str("{ ")?;
                for (at, (name, value)) in map.iter().enumerate() {
                    write!(f, "{}{} : {value}", if at == 0 { "" } else { " ,\t" }, text(name)?)?;
                }
                f.write_str("}")
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Json, D::Error> {
        from.deserialize_any(Values)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Json, E> {
        Ok(Json::Truth(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = from.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Json, A::Error> {
        let mut map = Vec::new();
        while let Some(pair) = from.next_entry()? {
            map.push(pair);
        }
        Ok(Json::Map(map))
    }
}
