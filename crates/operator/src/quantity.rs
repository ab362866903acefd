//! Kubernetes quantities (`500m`, `2Gi`, `1e3`) as whole numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use weft_topology::Resources;

/// The amount of one resource in the unit that all of Weft's placement uses: millicores for `cpu`, units or bytes for the rest.
///
/// Fractions are rounded up, as Kubernetes does for requests; what cannot be read counts as nothing, since the API server has
/// validated every quantity that reaches us.
pub fn amount(resource: &str, quantity: &Quantity) -> u64 {
    let scale = if resource == "cpu" { 1_000 } else { 1 };
    parse(&quantity.0, scale).unwrap_or(0)
}

/// Adds amounts by resource name.
pub fn resources<'a>(quantities: impl IntoIterator<Item = (&'a String, &'a Quantity)>) -> Resources {
    quantities.into_iter().map(|(name, quantity)| (name.as_str(), amount(name, quantity))).collect()
}

/// `text` times `scale`, rounded up. The grammar: a decimal number, then a binary (`Ki`), decimal (`k`, `m`) or exponent (`e3`) suffix.
fn parse(text: &str, scale: i128) -> Option<u64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, mut exponent): (i128, i32) = match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        exponent => (1, exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    exponent -= i32::try_from(fraction.len()).ok()?;
    let mut value = digits.checked_mul(factor)?.checked_mul(scale)?;
    let ten = 10_i128.checked_pow(exponent.unsigned_abs())?;
    value = if exponent >= 0 {
        value.checked_mul(ten)?
    } else {
        value.div_euclid(ten) + i128::from(value.rem_euclid(ten) != 0)
    };
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        let table = [
            ("cpu", "2", 2_000),
            ("cpu", "500m", 500),
            ("cpu", "0.1", 100),
            ("cpu", "1n", 1),
            ("memory", "1.5Gi", 3 << 29),
            ("memory", "128974848", 128_974_848),
            ("memory", "1e3", 1_000),
            ("memory", "12E", 12_000_000_000_000_000_000),
            ("memory", "100m", 1),
            ("nvidia.com/gpu", "8", 8),
            ("memory", "-1", 0),
            ("memory", "what", 0),
        ];
        for (resource, text, expected) in table {
            assert_eq!(amount(resource, &Quantity(text.to_owned())), expected, "{resource} {text}");
        }
    }
}
