"""Descriptions of images in headers, by rule and in several languages."""

import pytest
from header_series import series, stack, with_texts

from preprocess.anatomy.profile import BESIDE
from preprocess.dicom.catalog import Texts
from preprocess.reasons import Rejection
from preprocess.select.contrast import has_contrast
from preprocess.select.image_kind import described_kind
from preprocess.select.lexicon import lexicon
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select

CONTRAST: dict[str, dict[str, bool | None]] = {
    "a negation of something else says nothing": dict.fromkeys(
        (
            *("Head without tilt", "HEAD W/O GANTRY ANGLE", "ohne Kippung", "sans inclinaison", "w/o MAR"),
            *("senza inclinazione", "Kopf ohne Prothese", "without dentures", "sans appareil dentaire"),
            *("pre op", "nach OP", "high contrast window", "Kopf Hochkontrast", "W/O SEDATION"),
        )
    ),
    "but one alone is plain": dict.fromkeys(
        ("Head without", "CT BRAIN WO 5.0", "HEAD WO AXIAL", "W/O BRAIN", "CEREBRAL SANS", "Hoofd zonder"),
        False,
    ),
    "and a negation has one object": {
        "NON TRAUMA HEAD CONTRAST": True,
        "no tilt, contrast": True,
        "without the administration of intravenous contrast": False,
        "ohne jede Gabe von i.v. Kontrastmittel": False,
    },
    "with and without are both": dict.fromkeys(
        (
            *("CT HEAD WITH AND W/O", "W/O / WITH", "SANS/AVEC", "med/utan kontrast", "z/bez kontrastu"),
            *(
                "Schädel ohne + mit",
                "senza e con",
                "met/zonder",
                "с/без контраста",
                "조영 전/후",
                "natiivi ja va",
            ),
        ),
        True,
    ),
    "with ends a text": dict.fromkeys(
        ("BRAIN WITH", "CT head W", "Kopf mit", "Cráneo con", "crânio com", "hersenen met", "HEAD POST"), True
    ),
    "and not before something else": dict.fromkeys(
        (
            "with headholder",
            "mit Kopfhalter",
            "head with sedation",
            "Head no fall",
            "post op head",
            "post trauma",
        )
    ),
    "a sign in brackets": {
        **dict.fromkeys(("造影(-)", "造影（－）", "造影－", "조영제(-)", "KM (-)", "mdc (-)"), False),
        **dict.fromkeys(("造影(+)", "조영(+)", "KM (+)", "KM - Spirale"), True),
    },
    "names of reconstructions": dict.fromkeys(
        ("AiCE Brain", "FC26 AIDR3D", "O-MAR", "TrueFidelity", "pre and post op")
    ),
    "spaces in Korean": {
        **dict.fromkeys(
            ("조영제사용안함", "조영제 사용안함", "조영제 사용 안 함", "조영 안 함", "조영제 안씀"), False
        ),
        **dict.fromkeys(("조영제사용", "조영 후", "조영전,후"), True),
        "전두부 5mm": None,
        "무릎": None,
    },
    "a negation after a longer word": dict.fromkeys(
        ("varjoaine: ei", "Kontrastmittelgabe: nein", "контрастирование: нет", "kontrast verilmeden"), False
    ),
    "compounds": dict.fromkeys(
        (
            *(
                "o. i.v. KM",
                "senza e.v.",
                "z. iv contrast",
                "før kontrastinjeksjon",
                "u/iv kontrast",
                "б/контраста",
            ),
            *(
                "KM: keines",
                "kontrast verilmeksizin",
                "不含對比劑",
                "非对比增强",
                "非造影CT",
                "조영 안 한 CT",
                "Contrast: N",
            ),
            *("KM-frei", "kontrastmittelfrei", "unkontrastiert", "ongecontrasteerd", "okontrasterad"),
            *("ukontrastert", "HEAD_NOCONTRAST", "UNINFUSED", "kontrast maddesiz", "nonkontrast beyin"),
            *("prekontrastně", "ГМ б/КУ", "Без болюсного контрастирования", "未注射造影剂", "颅脑非增强扫描"),
            *(
                "無打顯影劑",
                "頭部ﾀﾝｼﾞｭﾝ",
                "s.m.d.c.",
                "CRANIO S CONTRASTE",
                "absence d'injection",
                "fase basal",
            ),
        ),
        False,
    ),
    "enhanced by other words": dict.fromkeys(
        (
            *("post omnipaque", "HEAD INFUSED", "BRAIN ENH", "Голова с КВ", "с РКС", "po JKL", "IVKM"),
            *(
                "gecontrasteerd",
                "con yodo",
                "遅延相",
                "지연기",
                "顯影後",
                "ｿﾞｳｴｲ",
                "Crane + IV",
                "con iniezione",
            ),
        ),
        True,
    ),
}
AGENTS = {
    **dict.fromkeys(("0 ml", "0ml", "0,0 cc", "N/O", "nihil", "niets", "非増強", "--"), False),
    **dict.fromkeys(
        ("***", "?", "[***]", "none stated", "no data", "해당없음", "該当なし", "nicht angegeben")
    ),
    **dict.fromkeys(("Micropaque", "Bariumsulfat", "P.O.", "Sanitized", "TBD", "Non communiqué")),
    **dict.fromkeys(("100 ml", "10 cc Omnipaque", "NON IONIC", "Bracco"), True),
}
KINDS: dict[str | None, tuple[str, ...]] = {
    "spectral": (
        *("VUE 5mm", "I(H2O)", "Water (Iodine)", "HAP(Water)", "碘(水)", "Eff-Z", "MD Iodine", "PBV", "SBI"),
        *("Head PureCalcium", "CaSupp 25", "Jod-Map", "Carte d'iode", "Mapa jodu", "йодная карта", "碘基图"),
        *(
            "Virtual Plain",
            "sanal kontrastsız",
            "Virtuell utan kontrast",
            "Virtuaalinen natiivi",
            "가상 비조영",
        ),
        *(
            "Wirtualne bez kontrastu",
            "Virtuální nativ",
            "виртуальный натив",
            "虚拟平扫",
            "仮想単純",
            "virtueel blanco",
        ),
        *(
            "Virtual senza contrasto",
            "virtual sem contraste",
            "virtual sin contraste",
            "virtuel uden kontrast",
        ),
        *("Elektronendichte", "densité électronique", "电子密度", "전자밀도", "Spectral Base Image"),
    ),
    "derived": (
        *("MPR", "<MPR Thick Range>", "Head cor MPR", "SAG REFORMATS", "3D", "Volume Rendering", "Recon 3D"),
        *(
            "Reconstruction 3D",
            "三维重建",
            "3次元",
            "3차원",
            "曲面重建",
            "Cinematic Rendering",
            "Bone removal",
        ),
        *("Screen Save", "Key Images", "RapidAI", "CPR"),
    ),
    "localizer": (
        *(
            "Scano",
            "SCANOSCOPE",
            "Übersichtsradiogramm",
            "Topogramma",
            "Localizzatore",
            "スキャノ",
            "Локалайзер",
        ),
        *("lokalizator", "kılavuz", "Suunnittelukuva", "localisateur", "Pilot", "ScoutAP", "Oversiktsbild"),
    ),
    "dose_report": (
        *(
            "Rapport dose",
            "Relatório de dose",
            "Rapporto di dose",
            "Annosraportti",
            "Raport dawki",
            "剂量报告",
        ),
        *(
            "Doz raporu",
            "отчет о дозе",
            "線量レポート",
            "선량 보고서",
            "Dosrapport",
            "Exam Summary",
            "CTDIvol",
            "RDSR",
        ),
    ),
    "dynamic": ("PERF", "VPCT", "perfusie", "test injection", "Timing Bolus", "4D CTA", "Tracker"),
    None: (
        *("Head 5.0", "D3D on 5.0", "Summit head", "Volume Helical", "低剂量头颅", "Head low dose", "iMAR"),
        *(
            "Perfect head",
            "Head I 5.0",
            "Water Street",
            "Average dose head",
            "Localization head",
            "Rochester 5.0",
        ),
    ),
}
PARTS = {
    "head": (
        *(
            "Skull base 1.0",
            "Schädelbasis",
            "base du crâne",
            "base de cráneo",
            "base do crânio",
            "base cranica",
        ),
        *("schedelbasis", "skallbas", "basis cranii", "kallonpohja", "podstawa czaszki", "baze lební"),
        *("kafa tabanı", "основание черепа", "颅底", "頭蓋底", "두개저", "Gesichtsschädel", "лицевой череп"),
    ),
    "": (
        *(
            "Augenhöhle",
            "hueso temporal",
            "T-bone",
            "Os petrosum",
            "kość skroniowa",
            "skalní kosti",
            "maxilofacial",
        ),
        *("околоносовые пазухи", "鼻骨", "코뼈", "oogkas", "ögonhåla", "çene", "mâchoire", "DentaScan"),
    ),
}
NECKS = (
    *("Neck", "Hals", "Cou", "Cuello", "Pescoço", "Collo", "Nakke", "Kaula", "Szyja", "Krk", "Boyun", "Шея"),
    *("颈部", "頸部", "경부", "Larynx", "Soft tissue neck"),
)
OTHERS = (
    "Whole Body",
    "Ganzkörper",
    "CaScore",
    "CTPA",
    "KUB",
    "Kaularanka",
    "Halsrygg",
    "颈椎",
    "Neck and chest",
)
HEADS = (
    "Kopf/Hals",
    "Testa-collo",
    "头颈部",
    "頭頸部",
    "두경부",
    "голова и шея",
    "HEADNECK",
    "CTH + neck",
    "BBT boyun",
)
SILENT = ("Rochester 5.0", "Sacred Heart", "orbitomeatal 5.0", "Abdul", "Nordkrankenhaus", "Handoff")
PHANTOMS = (
    *(
        "Gammex 464",
        "QC Water",
        "Tagesprüfung",
        "Kalibrierung",
        "Warm-up",
        "QA",
        "Abnahmeprüfung",
        "始業点検",
    ),
    *(
        "Contrôle de qualité",
        "waterfantoom",
        "vesifantomi",
        "fantom wodny",
        "водный фантом",
        "质量控制",
        "품질관리",
    ),
)


def why(**texts: str) -> str | None:
    try:
        select(series(tuple(with_texts(stack(), **texts))), SelectConfig())
    except Rejection as rejection:
        return str(rejection.reason)
    return None


def test_a_head_is_often_examined_with_the_neck() -> None:
    """A study, protocol or preset of a neck may contain a head; a series of a neck does not."""
    for text in NECKS:
        assert why(series_description=text) == "series_description", text
        assert why(series_description="5.0", study_description=text, protocol=text, body_part=text) is None, (
            text
        )
    for text in OTHERS:
        assert why(series_description="5.0", study_description=text) == "study_description", text


@pytest.mark.parametrize("rule", CONTRAST)
def test_descriptions_of_contrast(rule: str) -> None:
    actual = {text: has_contrast(Texts(series_description=text), lexicon()) for text in CONTRAST[rule]}
    assert actual == CONTRAST[rule]


def test_agent_fields_that_mean_no_contrast_or_nothing() -> None:
    assert {text: has_contrast(Texts(contrast=text), lexicon()) for text in AGENTS} == AGENTS


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_of_images_other_than_slices(kind: str | None) -> None:
    actual = {text: described_kind(text, lexicon()) for text in KINDS[kind]}
    assert actual == dict.fromkeys(KINDS[kind], kind)


def test_parts_of_the_head_count_as_neither_head_nor_other_body_part() -> None:
    words = lexicon()
    for texts in PARTS.values():
        assert [text for text in texts if not words.names_only_a_part(text)] == []
    assert [text for text in PARTS["head"] if words.meanings(text, "body") - {"head"}] == []
    for text in (
        "Head and skull base",
        "CT Schädel + Schädelbasis",
        "orbitomeatal 5.0",
        "頭部・頭蓋底",
        *HEADS,
    ):
        assert not words.names_only_a_part(text), text


def test_necks_and_bodies_are_not_heads_and_hospital_names_not_bodies() -> None:
    words = lexicon()
    assert {text for text in OTHERS if words.meanings(text, "body") - {BESIDE} != {"other"}} == set()
    assert {text for text in NECKS if words.meanings(text, "body") != {BESIDE}} == set()
    assert {text for text in HEADS if "head" not in words.meanings(text, "body")} == set()
    assert {text for text in SILENT if words.meanings(text, "body") or words.meanings(text, "part")} == set()
    assert {text for text in PHANTOMS if not words.meanings(text, "phantom")} == set()
