//! Edits of documents in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::dice::Dice;

/// Makes one edit of a document that a member, named by its JSON pointer, has in base64 or as text.
pub fn edit_within(value: &mut Value, pointer: &str, dice: &mut Dice) {
    let Some(member) = value.pointer_mut(pointer) else {
        return;
    };
    let text = member.as_str().unwrap_or_default();
    let decoded = STANDARD.decode(text);
    let document = decoded.as_deref().unwrap_or(text.as_bytes());
    let Ok(mut inner) = serde_json::from_slice(document) else {
        return;
    };
    edit(&mut inner, dice);
    let inner = inner.to_string();
    *member = match decoded {
        Ok(_) => STANDARD.encode(inner).into(),
        Err(_) => inner.into(),
    };
}

/// Makes one edit of a value at a level that the dice choose.
pub fn edit(value: &mut Value, dice: &mut Dice) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let (at, other) = (dice.roll(items.len()), dice.roll(items.len()));
            match dice.roll(8) {
                0 => drop(items.remove(at)),
                1 => items.insert(other, items[at].clone()),
                2 => items.swap(at, other),
                3 => items[at] = items[other].clone(),
                _ => edit(&mut items[at], dice),
            }
        }
        Value::Object(members) if !members.is_empty() => {
            let names: Vec<String> = members.keys().cloned().collect();
            let (name, other) = (
                &names[dice.roll(names.len())],
                &names[dice.roll(names.len())],
            );
            let kept = members[other].clone();
            match dice.roll(9) {
                0 => drop(members.remove(name)),
                1 => members[name] = kept,
                2 => {
                    let value = members.remove(name).unwrap_or_default();
                    members.insert(name.to_uppercase(), value);
                }
                3 => drop(members.insert("another".to_owned(), kept)),
                _ => edit(&mut members[name], dice),
            }
        }
        Value::Number(number) if !dice.one_in(4) => {
            let number = number.as_i64().unwrap_or_default();
            let others = [number + 1, number - 1, -number, 0, number << 16];
            *value = json!(others[dice.roll(others.len())]);
        }
        Value::String(text) if !dice.one_in(6) => match dice.roll(6) {
            0 => text.push('A'),
            1 => drop(text.pop()),
            2 => *text = text.to_lowercase(),
            3 => *text = text.replace('0', "1"),
            4 => "UpToDate".clone_into(text),
            _ => *text = text.replace('2', "3"),
        },
        other => {
            let replacements = [
                json!(null),
                json!(0),
                json!(""),
                json!([]),
                json!({}),
                json!([other]),
            ];
            *other = replacements[dice.roll(replacements.len())].clone();
        }
    }
}
