//! XML as a tree, and property lists as JSON's values.

use anyhow::{Context, Result, bail, ensure};
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde_json::{Map, Value};

/// An element, with its texts as one.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Self>,
    text: String,
}

impl Element {
    /// The one element of a document.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        reader.config_mut().check_comments = true;
        // The first stands for the document.
        let mut open = vec![Self::default()];
        loop {
            let at = reader.buffer_position();
            let event = reader.read_event().with_context(|| format!("no XML at byte {at}"))?;
            let inner = open.last_mut().context("the document is always open")?;
            match event {
                Event::Start(start) => open.push(Self::opened(&start)?),
                Event::End(_) => {
                    let element = open.pop().context("an element that ends was open")?;
                    open.last_mut().context("an end without a start")?.children.push(element);
                }
                Event::Text(text) => inner.text.push_str(&text),
                Event::CData(text) => inner.text.push_str(&text),
                Event::GeneralRef(reference) => match reference.resolve_char_ref()? {
                    Some(character) => inner.text.push(character),
                    None => inner.text.push_str(
                        resolve_xml_entity(&reference)
                            .with_context(|| format!("entity {:?} is unknown", &*reference))?,
                    ),
                },
                Event::Eof => break,
                _ => {}
            }
        }
        ensure!(open.len() == 1, "{} is not closed", open.pop().unwrap_or_default().name);
        let document = open.pop().unwrap_or_default();
        ensure!(document.text.trim().is_empty(), "text is outside of the document's element");
        let [element] = <[Self; 1]>::try_from(document.children)
            .map_err(|found| anyhow::anyhow!("a document has one element, not {}", found.len()))?;
        Ok(element)
    }

    fn opened(start: &BytesStart<'_>) -> Result<Self> {
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute?;
            let value = attribute.normalized_value(XmlVersion::default())?;
            attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
        }
        Ok(Self { name: start.name().as_ref().to_owned(), attributes, ..Self::default() })
    }

    /// An attribute, or nothing.
    pub(super) fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }

    /// All below it of a name.
    pub(super) fn all(&self, name: &str) -> Vec<&Self> {
        let mut found = Vec::new();
        for child in &self.children {
            if child.name == name {
                found.push(child);
            }
            found.extend(child.all(name));
        }
        found
    }
}

/// A property list.
pub(super) fn plist(text: &str) -> Result<Value> {
    let document = Element::parse(text)?;
    ensure!(document.name == "plist" && document.attribute("version") == "1.0", "this is no property list");
    let [value] = document.children.as_slice() else { bail!("a property list has one value") };
    value_of(value)
}

fn value_of(element: &Element) -> Result<Value> {
    Ok(match element.name.as_str() {
        "dict" => {
            let mut map = Map::new();
            for pair in element.children.chunks(2) {
                let [key, value] = pair else { bail!("a key has no value") };
                ensure!(key.name == "key", "a dict has a {} where a key belongs", key.name);
                let before = map.insert(key.text().to_owned(), value_of(value)?);
                ensure!(before.is_none(), "key {} is there twice", key.text());
            }
            Value::Object(map)
        }
        "array" => element.children.iter().map(value_of).collect::<Result<_>>()?,
        "string" => element.text().into(),
        "integer" => element.text().parse::<i64>().context("this is no integer")?.into(),
        "true" => true.into(),
        "false" => false.into(),
        other => bail!("a property list has no <{other}> here"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for text in [
            "",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a x=1/>",
            "<a x='1' x='2'/>",
            "<a>&nope;</a>",
            "<a/>more",
            "<!-- a -- b --><a/>",
            "</a>",
        ] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tree_has_attributes_and_texts_without_escapes() {
        let root = Element::parse("<a><b c='&quot;d&quot;'>e &amp; &#102;</b><g><b/></g></a>").unwrap();
        let found = root.all("b");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].attribute("c"), found[0].text()), ("\"d\"", "e & f"));
    }

    #[test]
    fn a_property_list_is_read_as_its_values() {
        let list = |inner: &str| plist(&format!("<plist version=\"1.0\">{inner}</plist>"));
        let value =
            list("<dict><key>a</key><array><string>b</string><integer>3</integer><true/></array></dict>");
        assert_eq!(value.unwrap(), serde_json::json!({ "a": ["b", 3, true] }));
        for wrong in
            ["", "<dict><key>a</key></dict>", "<dict><true/><key>a</key></dict>", "<date/>", "<true/><true/>"]
        {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }
}
