//! Edits of values in CBOR.

use ciborium::Value;

use crate::dice::Dice;

/// Makes one edit of a value at a level that the dice choose.
pub fn edit(value: &mut Value, dice: &mut Dice) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let (at, other) = (dice.roll(items.len()), dice.roll(items.len()));
            match dice.roll(10) {
                0 => drop(items.remove(at)),
                1 => items.insert(other, items[at].clone()),
                2 => items.swap(at, other),
                3 => items[at] = items[other].clone(),
                _ => edit(&mut items[at], dice),
            }
        }
        Value::Map(members) if !members.is_empty() => {
            let (at, other) = (dice.roll(members.len()), dice.roll(members.len()));
            match dice.roll(12) {
                0 => drop(members.remove(at)),
                1 => members.insert(other, members[at].clone()),
                2 => members.swap(at, other),
                3 => members[at].1 = members[other].1.clone(),
                4 => edit(&mut members[at].0, dice),
                5 => {
                    let twice = (members[at].0.clone(), members[other].1.clone());
                    members.push(twice);
                }
                _ => edit(&mut members[at].1, dice),
            }
        }
        Value::Bytes(bytes) if !dice.one_in(4) => super::bend(bytes, dice),
        Value::Integer(number) if !dice.one_in(3) => {
            let number = i128::from(*number);
            let steps = [1, -1, 300_000, -300_000, 1 << 33];
            let next = number + steps[dice.roll(steps.len())];
            *value = Value::from(i64::try_from(next).unwrap_or(0));
        }
        Value::Text(text) if !dice.one_in(4) => match dice.roll(3) {
            0 => text.push('0'),
            1 => drop(text.pop()),
            _ => *text = text.to_uppercase(),
        },
        other => *other = replaced(other, dice),
    }
}

/// Returns a value of another type in the place of this one.
fn replaced(value: &Value, dice: &mut Dice) -> Value {
    match dice.roll(8) {
        0 => Value::Null,
        1 => Value::Bool(true),
        2 => Value::from(0),
        3 => Value::Bytes(Vec::new()),
        4 => Value::from("SHA384"),
        5 => Value::Array(vec![value.clone()]),
        6 => Value::Tag(18, Box::new(value.clone())),
        _ => Value::Map(vec![(Value::from(0), value.clone())]),
    }
}
