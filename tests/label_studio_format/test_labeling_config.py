import tracemalloc
from typing import Any, Literal
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from label_studio_format import labeling_config
from label_studio_format.labeling_config import Choice, ImageChoices, parse_label_config
from tests.my_backend.fake_model import LABEL_CONFIG

Form = Literal["NFC", "NFD"]

IMAGE = '<Image name="i" value="$url"/>'


SINGLE = '<Choices name="{}" toName="i"><Choice value="A"/></Choices>'


def named(name: str) -> Choice:
    return Choice((name,), (name,))


def config(choices: str) -> str:
    return f"<View>{IMAGE}{choices}</View>"


def _nested(deep: int) -> str:
    return '<Choice value="A">' * deep + "</Choice>" * deep


def test_labeling_config_names_tag_field_and_choices() -> None:
    parsed = parse_label_config(LABEL_CONFIG)

    assert parsed.image_choices == ImageChoices("animal", "image", "image", (named("Cat"), named("Dog")))
    assert (parsed.choices, parsed.problem) == (("Cat", "Dog"), "")


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ('<Choices name="c" toName="i"><Choice value="Cat" alias="c"/><Choice value="Dog"/></Choices>', ("c", "Dog")),
        (
            '<Choices name="c" toName="i"><Choice value="A"><Choice value="B"/></Choice></Choices>',
            ("A", "B"),
        ),
        ('<Choices name="c" toName="i"><View><Choice value="A"/></View><Choice value="A"/></Choices>', ("A",)),
        (
            '<Choices name="t" toName="text"><Choice value="X"/></Choices>'
            '<Choices name="c" toName="i"><Choice value="A"/></Choices>',
            ("A",),
        ),
        (
            '<Choices name="r" toName="i" perRegion="true"><Choice value="X"/></Choices>'
            '<Choices name="c" toName="i" choice="single-radio"><Choice value="A"/></Choices>',
            ("A",),
        ),
        ('<Choices name="c" toName="i"><Choice value="Ünï &lt;b&gt; 🐈"/></Choices>', ("Ünï <b> 🐈",)),
    ],
    ids=["alias", "nested", "twice", "other tag before", "of regions before", "unicode"],
)
def test_choices_are_named_as_annotations_name_them(choices: str, expected: tuple[str, ...]) -> None:
    assert parse_label_config(config(choices)).choices == expected


TREE = '<Choice value="Animal"><Choice value="Cat" alias="c"/><Choice value="Dog"/></Choice><Choice value="Car"/>'


@pytest.mark.parametrize(
    ("attributes", "choices", "multiple"),
    [
        ("", ("Animal", "c", "Dog", "Car"), True),
        ('leafsOnly="true"', ("c", "Dog", "Car"), True),
        ('maxUsages="1"', ("Animal", "c", "Dog", "Car"), False),
        ('maxUsages="2"', ("Animal", "c", "Dog", "Car"), True),
    ],
)
def test_taxonomy_is_read_as_nested_choices_and_answered_as_paths(
    attributes: str, choices: tuple[str, ...], multiple: bool
) -> None:
    tag = parse_label_config(config(f'<Taxonomy name="t" toName="i" {attributes}>{TREE}</Taxonomy>')).image_choices

    assert tag is not None
    assert (tag.choices, tag.multiple) == (choices, multiple)
    region = tag.prediction(["c"], 0.9)["result"][0]
    assert (region["type"], region["value"]) == ("taxonomy", {"taxonomy": [["Animal", "c"]]})
    assert tag.name_of(["Animal", "Cat"]) == "c"


def test_leaves_of_dynamic_choices_are_offered() -> None:
    xml = config('<Taxonomy name="t" toName="i" value="$tree" leafsOnly="true"/>')
    tag = parse_label_config(xml).image_choices

    assert tag is not None
    tree = [{"value": "Animal", "children": [{"value": "Cat"}]}, "Car"]
    assert tag.for_task({"tree": tree}).choices == ("Cat", "Car")


def test_choices_are_learned_rather_than_a_taxonomy_before_them() -> None:
    xml = config(f'<Taxonomy name="t" toName="i">{TREE}</Taxonomy>' + SINGLE.format("c"))

    assert [parse_label_config(xml, name).image_choices.from_name for name in ("", "t")] == ["c", "t"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        ("", "no labeling config yet"),
        ("   ", "no labeling config yet"),
        ("<View>", "isn't valid XML"),
        ("<View/>", "no <Image"),
        ('<View><Image name="i"/></View>', "no <Image"),
        (config(""), "no <Choices> or <Taxonomy> tag whose toName"),
        (
            config('<Choices name="c" toName="other"><Choice value="A"/></Choices>'),
            "no <Choices> or <Taxonomy> tag whose toName",
        ),
        (config('<Choices toName="i"><Choice value="A"/></Choices>'), "no name"),
        (config('<Choices name="c" toName="i"/>'), "no <Choice>"),
        ('<View><Image name="i" valueList="$urls"/>' + SINGLE.format("c") + "</View>", "valueList"),
        (config('<Choices name="c" toName="i" perRegion="true"><Choice value="A"/></Choices>'), "regions"),
        (config('<Choices name="c" toName="i" perItem="TRUE"><Choice value="A"/></Choices>'), "regions"),
        (config('<Taxonomy name="c" toName="i" perRegion="true"><Choice value="A"/></Taxonomy>'), "regions"),
        (config('<Taxonomy name="c" toName="i" labeling="true"><Choice value="A"/></Taxonomy>'), "regions"),
        (
            config('<Taxonomy name="c" toName="i" apiUrl="http://x/y"/>'),
            '<Taxonomy name="c">: its choices come from another',
        ),
        (config('<Choices name="c" toName="i">' + _nested(5000) + "</Choices>"), "nested more than 100 levels deep"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "isn't valid XML"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hosts">]><View>&a;</View>', "isn't valid XML"),
    ],
)
def test_config_that_cannot_be_used_says_why(xml: str, problem: str) -> None:
    parsed = parse_label_config(xml)

    assert parsed.image_choices is None
    assert problem in parsed.problem


def _above(name: str, deep: int, choices: str) -> str:
    """Choices with long paths."""
    return f'<Choice value="{name}">' * deep + choices + "</Choice>" * deep


def _many(number: int, attributes: str = "") -> str:
    return "".join(f'<Choice value="{n}"{attributes}/>' for n in range(number))


FEW = '<Choices name="c" toName="i">{}</Choices>'
COSTLY = {
    "long paths": config(FEW.format(_above("x" * 1000, 99, _many(1000)))),
    "many short paths": config(FEW.format(_above("x", 99, _many(100_000)))),
    "wide characters": config(FEW.format(_above("\U0001f600" * 100, 90, _many(20_000)))),
    "synonyms": config(FEW.format(f'<Choice value="A" predicted_values="{",".join(map(str, range(200_000)))}"/>')),
    "defaults of a DTD": f'<!DOCTYPE View [<!ATTLIST Choice hint CDATA "{"x" * 50_000}">]>'
    + config(FEW.format("<Choice value='a'/>" * 3000)),
    "namespace": f'<View xmlns:a="{"u" * 50_000}">' + "".join(f"<a:t{n}/>" for n in range(5000)) + "</View>",
    "tags": config("<a/>" * 100_000),
    "text": config(f"<!-- {'x' * 3_000_000} -->" + FEW.format(_many(1))),
}


@pytest.mark.parametrize("xml", COSTLY.values(), ids=COSTLY)
def test_config_that_costs_much_memory_is_refused_and_costs_none(xml: str) -> None:
    parse_label_config(config(FEW.format(_many(2))))  # what the first one needs
    tracemalloc.start()
    try:
        parsed = parse_label_config(xml)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert parsed.image_choices is None
    assert parsed.problem
    assert kept < 1_000_000
    assert peak < 50_000_000


def test_all_configs_together_cost_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 4_000_000
    monkeypatch.setattr(labeling_config, "REMEMBERED_BYTES", limit)
    several = [config(FEW.format(f'<Choice value="project {number}"/>' + _many(300))) for number in range(60)]
    tracemalloc.start()
    try:
        for xml in several:
            parsed = parse_label_config(xml)
            assert parsed.image_choices
            assert parsed.image_choices.name_of("7") == "7"
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert limit / 4 < kept < limit


def test_thousands_of_choices_are_read() -> None:
    choices = "".join(f'<Choice value="A class with a rather long name, number {n}"/>' for n in range(22_000))

    assert len(parse_label_config(config(FEW.format(choices))).choices) == 22_000


def test_task_that_brings_too_many_choices_has_the_first_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeling_config, "MOST_BYTES_OF_TASK", 10_000)
    tag_of_tasks = tag('<Choices name="c" toName="i" value="$options"/>')

    assert 0 < len(tag_of_tasks.for_task({"options": [str(n) for n in range(1000)]}).choices) < 20
    nested: list[Any] = []
    for _ in range(5000):
        nested = [{"value": "x", "children": nested}]
    assert len(tag_of_tasks.for_task({"options": nested}).choices) < 100


def test_choices_may_be_nested_as_deep_as_people_nest_them() -> None:
    assert tag('<Choices name="c" toName="i" allowNested="true">' + _nested(100) + "</Choices>").offered[-1].path == (
        ("A",) * 100
    )


@given(st.text() | st.text(alphabet='<>/="& VieChosImagnt$').map(lambda middle: f"<View>{middle}</View>"))
def test_no_config_raises(xml: str) -> None:
    parsed = parse_label_config(xml)

    assert (parsed.image_choices is None) == bool(parsed.problem)


def tag(choices: str) -> ImageChoices:
    found = parse_label_config(config(choices)).image_choices
    assert found is not None
    return found


def test_of_several_tags_the_one_that_is_named_counts() -> None:
    two = config(SINGLE.format("first") + SINGLE.format("second"))

    assert parse_label_config(two).image_choices.from_name == "first"  # type: ignore[union-attr]
    assert parse_label_config(two, "second").image_choices.from_name == "second"  # type: ignore[union-attr]
    assert "'third'" in parse_label_config(two, "third").problem


def test_tag_knows_the_other_tags_that_annotations_may_have_choices_of() -> None:
    several = SINGLE.format("first") + SINGLE.format("second") + '<Taxonomy name="t" toName="text"/>'

    assert tag(several).other_tags == {"second", "t"}


@pytest.mark.parametrize(("choice", "multiple"), [("single", False), ("single-radio", False), ("multiple", True)])
def test_config_says_whether_several_may_be_ticked(choice: str, multiple: bool) -> None:
    assert tag(f'<Choices name="c" toName="i" choice="{choice}"><Choice value="A"/></Choices>').multiple is multiple


ALIAS = """<Choices name="c" toName="i">
  <Choice value="Cat" alias="c" predicted_values="tabby, Siamese"/>
  <Choice value="Dog"/>
</Choices>"""


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("c", "c"),
        ("Cat", "c"),
        ("tabby", "c"),
        ("siamese", "c"),
        ("Dog", "Dog"),
        ("dog", "Dog"),
        ("Bird", ""),
        (None, ""),
    ],
)
def test_alias_value_and_predicted_values_mean_the_same_choice(called: Any, name: str) -> None:
    assert tag(ALIAS).name_of(called) == name


SPELLED_ALIKE = """<Choices name="c" toName="i">
  <Choice value="us"/><Choice value="US"/>
  <Choice value="A" predicted_values="other"/><Choice value="B" predicted_values="other"/>
  <Choice value="C" predicted_values="Other"/>
</Choices>"""


@pytest.mark.parametrize(
    ("called", "name"), [("us", "us"), ("US", "US"), ("Us", ""), ("Other", "C"), ("other", ""), ("OTHER", "")]
)
def test_spelling_that_may_mean_several_choices_means_none(called: str, name: str) -> None:
    assert tag(SPELLED_ALIKE).name_of(called) == name


NESTED = """<Choices name="c" toName="i" allowNested="true">
  <Choice value="Animal"><Choice value="Cat" alias="c"/><Choice value="Other"/></Choice>
  <Choice value="Plant"><Choice value="Other"/></Choice>
</Choices>"""


@pytest.mark.parametrize(
    ("called", "name"),
    [
        (["Animal", "c"], "c"),
        (["Animal"], "Animal"),
        (["Animal", "Other"], "Animal/Other"),
        (["Plant", "Other"], "Plant/Other"),
        ("Other", ""),
        ([], ""),
    ],
)
def test_nested_choice_has_its_leafs_name_or_its_path_if_leaves_are_alike(called: Any, name: str) -> None:
    assert tag(NESTED).name_of(called) == name


@pytest.mark.parametrize(("offered", "called"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_choice_is_found_whether_its_accents_are_separate_characters_or_not(offered: Form, called: Form) -> None:
    """Names of files are decomposed on macOS; people type composed characters."""
    cafe = normalize(offered, "Café")
    nested = tag(f'<Choices name="c" toName="i"><Choice value="{cafe}"><Choice value="Cup"/></Choice></Choices>')

    assert nested.name_of(normalize(called, "CAFÉ")) == cafe
    assert nested.name_of([normalize(called, "Café"), "Cup"]) == "Cup"


TREE_WITHOUT_DOG_OTHER = """<Taxonomy name="t" toName="i" {}>
  <Choice value="Cat" alias="c" predicted_values="Feline"><Choice value="Old"><Choice value="Other"/></Choice></Choice>
  <Choice value="Dog"><Choice value="Poodle"/></Choice><Choice value="Bird"/>
</Taxonomy>"""


@pytest.mark.parametrize("attributes", ["", 'leafsOnly="true"'])
@pytest.mark.parametrize(
    ("called", "name"),
    [
        (["c", "Old", "Other"], "Other"),
        (["Cat", "Old", "Other"], "Other"),
        (["feline", "old", "other"], "Other"),
        (["Other"], "Other"),
        (["Dog", "Other"], ""),
        (["Dog", "Old", "Other"], ""),
        (["Old", "Other"], ""),
        (["Cat", "Other"], ""),
        (["Cat", "Bird"], ""),
        (["Dog", "Poodle"], "Poodle"),
    ],
)
def test_choice_that_is_gone_is_not_taken_for_one_of_the_same_name_elsewhere(
    attributes: str, called: list[str], name: str
) -> None:
    assert tag(TREE_WITHOUT_DOG_OTHER.format(attributes)).name_of(called) == name


def test_parents_that_nobody_has_chosen_in_an_export_are_compared_by_their_names() -> None:
    used = ImageChoices("t", "", "", (Choice(("Cat", "Other")), Choice(("Dog", "Poodle"))))
    assert [used.name_of(path) for path in (["cat", "Other"], ["Dog", "Other"])] == ["Other", ""]


def test_predicted_values_may_be_the_path_of_a_choice_that_is_gone() -> None:
    moved = '<Choice value="Cat"><Choice value="Other" predicted_values="Dog/Other"/></Choice>'

    assert tag(f'<Taxonomy name="t" toName="i">{moved}</Taxonomy>').name_of(["Dog", "Other"]) == "Other"


def test_nested_choice_is_answered_with_its_path() -> None:
    predicted = tag(NESTED).prediction(["c", "Plant/Other"], 0.5)

    assert predicted["result"][0]["value"]["choices"] == [["Animal", "c"], ["Plant", "Other"]]


@pytest.mark.parametrize("options", [["A", "B"], [{"value": "A"}, {"value": "Long", "alias": "B"}]])
def test_task_brings_choices_along(options: list[Any]) -> None:
    dynamic = tag('<Choices name="c" toName="i" value="$options"/>')

    assert dynamic.choices == ()
    assert dynamic.for_task({"options": options}).choices == ("A", "B")
    assert dynamic.for_task({}).choices == ()


@pytest.mark.parametrize("options", [None, "text", 7, [None], [[]], {"value": "A"}, [{"children": 5}]])
def test_choices_of_another_shape_are_none(options: Any) -> None:
    dynamic = tag('<Choices name="c" toName="i" value="$options"/>')

    assert all(isinstance(name, str) for name in dynamic.for_task({"options": options}).choices)


def test_prediction_is_as_label_studio_stores_it() -> None:
    assert ImageChoices("animal", "image", "field", (named("Cat"),)).prediction(["Cat"], 0.5) == {
        "result": [
            {
                "from_name": "animal",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": ["Cat"]},
                "score": 0.5,
            }
        ],
        "score": 0.5,
    }
