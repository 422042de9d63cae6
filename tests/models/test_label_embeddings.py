"""Label embeddings from every kind of file: the exact numbers of known words, and a helpful error for all others."""

import json
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mldec.errors import DataError
from mldec.models import embedding_files
from mldec.models.label_embeddings import (
    LabelEmbeddings,
    LabelEmbeddingsConfig,
    read_label_embeddings,
    split,
    whole_forms,
)

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "nuswide"

WORDS = {
    "red": [1.0, 0.5, -2.0],
    "seven": [0.25, 3.0, 1.0],
    "traffic_light": [7.0, 8.0, 9.0],
    "zürich": [-1.0, -0.125, 4.0],
    "dog": [2.0, 2.0, 2.0],
}


def lines(words):
    return "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in words.items())


def write_glove(path):
    path.write_text(lines(WORDS), encoding="utf-8")


def write_text_with_header(path):
    path.write_text(f"{len(WORDS)} 3\n{lines(WORDS)}", encoding="utf-8")


def write_trailing_spaces(path):
    path.write_text(lines(WORDS).replace("\n", " \n"), encoding="utf-8")


def write_array(path):
    np.save(path, np.array(list(WORDS.values())))
    (path.parent / "names.json").write_text(json.dumps(list(WORDS)), encoding="utf-8")


def write_columns(path):
    torch.save(torch.tensor(list(WORDS.values())).T, path)
    names = {str(number): word for number, word in reversed(list(enumerate(WORDS)))}
    (path.parent / "names.json").write_text(json.dumps(names), encoding="utf-8")


def write_array_and_lines(path):
    np.save(path, np.array(list(WORDS.values()), np.float16))
    (path.parent / "names.txt").write_text("\n".join(WORDS), encoding="utf-8")


FILES = {
    "glove.txt": write_glove,
    "crawl.vec": write_text_with_header,
    "spaces.txt": write_trailing_spaces,
    "rows.npy": write_array,
    "columns.pth": write_columns,
    "half.npy": write_array_and_lines,
}


def config_of(folder, name, **settings):
    FILES[name](folder / name)
    names = next((str(folder / f) for f in ("names.json", "names.txt") if (folder / f).exists()), None)
    return LabelEmbeddingsConfig(source=str(folder / name), names=names, **settings)


@pytest.mark.parametrize("name", FILES)
def test_labels_get_the_vectors_of_their_words(tmp_path, name):
    config = config_of(tmp_path, name)
    found = read_label_embeddings(config, ["zürich", "traffic light", "red seven", "Dog", "DOG-red"])
    mean = np.mean([WORDS["red"], WORDS["seven"]], axis=0)
    other = np.mean([WORDS["dog"], WORDS["red"]], axis=0)
    expected = np.array([WORDS["zürich"], WORDS["traffic_light"], mean, WORDS["dog"], other], np.float32)
    np.testing.assert_array_equal(found.vectors.numpy(), expected)
    assert found.vectors.dtype == torch.float32
    assert found.names == ("zürich", "traffic light", "red seven", "Dog", "DOG-red")
    assert found.source == config.source


@pytest.mark.parametrize("name", FILES)
def test_a_label_without_a_vector_is_an_error_with_the_nearest_words(tmp_path, name):
    config = config_of(tmp_path, name)
    with pytest.raises(DataError) as caught:
        read_label_embeddings(config, ["red", "red sevn", "xylophone"])
    message = str(caught.value)
    assert "no label embedding for 2 labels" in message
    assert "'red sevn' (no 'sevn'): nearest known: seven" in message
    assert "'xylophone': no similar word found" in message
    assert "head.label_embeddings.aliases=FILE" in message


def test_aliases_say_what_to_look_up_instead(tmp_path):
    aliases = tmp_path / "aliases.tsv"
    aliases.write_text("hot dog\tdog\n\nHund\tdog\n", encoding="utf-8")
    config = config_of(tmp_path, "glove.txt", aliases=str(aliases))
    found = read_label_embeddings(config, ["hot dog", "Hund", "red"])
    np.testing.assert_array_equal(found.vectors.numpy(), [WORDS["dog"], WORDS["dog"], WORDS["red"]])
    assert found.names == ("hot dog", "Hund", "red")
    for text, culprit in (("dog", "line 1"), ("a\tb\na\tc", "line 2"), ("a\t", "line 1"), ("\tb", "line 1")):
        aliases.write_text(text)
        with pytest.raises(DataError, match=f"{culprit}: expected label<tab>text"):
            read_label_embeddings(config, ["red"])
    aliases.unlink()
    with pytest.raises(DataError, match=r"aliases=.* cannot be read"):
        read_label_embeddings(config, ["red"])


def test_the_whole_label_is_looked_up_before_its_words(tmp_path):
    (tmp_path / "words.txt").write_text("hot 1 0\ndog 0 1\nhot-dog 5 5\ncellphone 3 4\ncell 9 9\nphone 9 9\n")
    found = read_label_embeddings(
        LabelEmbeddingsConfig(source=str(tmp_path / "words.txt")), ["hot dog", "cell phone", "dog hot"]
    )
    np.testing.assert_array_equal(found.vectors.numpy(), [[5, 5], [3, 4], [0.5, 0.5]])
    assert whole_forms("Hot dog")[0] == "Hot dog"
    assert "hot_dog" in whole_forms("Hot dog")
    assert split("person's hat/cap (red)") == ["person's", "hat", "cap", "red"]


def test_words_with_spaces_are_read_from_the_end_of_the_line(tmp_path):
    (tmp_path / "words.txt").write_text("new york 1 2\nnew 3 4\n. . . 5 6\n")
    table = embedding_files.open_embedding_file(tmp_path / "words.txt")
    found = table.vectors(["new york", "new", "york", ". . ."])
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "new": [3, 4],
        "new york": [1, 2],
        ". . .": [5, 6],
    }
    assert list(table.words()) == ["new york", "new", ". . ."]


# Bad files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.txt", b"red 1 2 3\nblue 1 2\n", "line 2: expected 3 numbers after the word"),
        ("w.txt", b"red 1 2 3\nblue 1 x 3\n", "line 2: expected 3 numbers after the word"),
        ("w.txt", b"red one two\n", "expected a word and its numbers"),
        ("w.txt", b"", "expected a word and its numbers"),
        ("w.txt", b"red\nblue\n", "expected a word and its numbers"),
        ("w.vec", b"2 3\nred 1 2\nblue 1 2 3\n", "line 2: expected 3 numbers"),
        ("w.npy", b"no array", "cannot be read as an array"),
        ("w.txt", b"red 1 2\nblue nan 2\n", "1 of 2 label embeddings are zero or not finite .first: 'blue'"),
        ("w.txt", b"red 1 2\nblue 0 0\n", "1 of 2 label embeddings are zero or not finite .first: 'blue'"),
        ("w.txt", b"red 1 2\nblue inf 1\n", "zero or not finite"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    names = tmp_path / "names.txt"
    names.write_text("red\nblue")
    config = LabelEmbeddingsConfig(source=str(tmp_path / name), names=str(names) if name.endswith("npy") else None)
    with pytest.raises(DataError, match=message):
        read_label_embeddings(config, ["red", "blue"])


def test_arrays_that_do_not_fit(tmp_path):
    source, names = tmp_path / "w.npy", tmp_path / "names.json"
    np.save(source, np.ones((4, 3)))
    names.write_text('["a", "b"]')
    with pytest.raises(DataError, match=r"shape \(4, 3\) for 2 names"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(source), names=str(names)), ["a"])
    with pytest.raises(DataError, match=r"shape \(4, 3\) for 2 labels; .*head.label_embeddings.names=FILE"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(source)), ["a", "b"])
    names.write_text('["a", "b", "c", "a"]')
    with pytest.raises(DataError, match=r"names must differ; head.label_embeddings.names lists more than once: a"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(source), names=str(names)), ["a"])
    names.write_text('{"a": 1')
    with pytest.raises(DataError, match=r"head.label_embeddings.names=.*cannot be read"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(source), names=str(names)), ["a"])
    names.write_text("[1, 2]")
    with pytest.raises(DataError, match="expected a list of names"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(source), names=str(names)), ["a"])
    np.save(source, np.ones(4))
    with pytest.raises(DataError, match="with rows and columns, found shape"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(source)), ["a"])
    FILES["glove.txt"](tmp_path / "glove.txt")
    with pytest.raises(DataError, match=r"head.label_embeddings.names=.*without effect for glove.txt"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "glove.txt"), names=str(names)), ["red"])


def test_tensors_that_numpy_does_not_know(tmp_path):
    values = torch.tensor([[1.0, 0.5], [-2.0, 4.0]])
    for tensor in (values.bfloat16(), values.half(), values.double(), nn.Parameter(values), values.int()):
        torch.save(tensor, tmp_path / "w.pth")
        found = read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "w.pth")), ["a", "b"])
        assert found.vectors.tolist() == tensor.float().tolist()


@pytest.mark.parametrize("name", ["w.pickle", "w.pkl"])
def test_a_pickle_is_refused_with_the_lines_that_convert_it(tmp_path, name, capsys):
    (tmp_path / name).write_bytes(pickle.dumps(Runs()))
    with pytest.raises(DataError, match="pickles are not read, since loading one runs") as caught:
        read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / name)), ["a", "b"])
    assert "must not run" not in capsys.readouterr().out
    (tmp_path / name).write_bytes(pickle.dumps(np.ones((2, 3), np.float32)))
    exec("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]))  # the lines it gives
    found = read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "w.npy")), ["a", "b"])
    assert found.vectors.tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("name", ["w.txt.gz", "w.npy.gz"])
def test_a_compressed_file_must_be_decompressed_first(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=f"{name}: compressed; decompress it first .*and use .*{name[:-3]}"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / name)), ["a"])


@pytest.mark.parametrize(
    ("name", "content", "loader"),
    [
        ("GoogleNews.bin", b"2 3\nred \0", "KeyedVectors.load_word2vec_format({path!r}, binary=True)"),
        ("cc.en.300.bin", struct.pack("<ii", 793712314, 12), "load_facebook_vectors({path!r})"),
        ("cc.en.300.model", struct.pack("<ii", 793712314, 12), "load_facebook_vectors({path!r})"),
    ],
)
def test_a_binary_file_is_refused_with_the_lines_that_convert_it(tmp_path, monkeypatch, name, content, loader):
    """The lines are run with a stand-in for gensim: they are valid, and what they write is read."""
    path, target = tmp_path / name, tmp_path / Path(name).with_suffix(".vec")
    path.write_bytes(content)
    with pytest.raises(DataError, match="are not read") as caught:
        read_label_embeddings(LabelEmbeddingsConfig(source=str(path)), ["red"])
    lines_to_run = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(lines_to_run) == 2
    assert lines_to_run[1] == f"{loader.format(path=str(path))}.save_word2vec_format({str(target)!r})"

    class Vectors:
        @staticmethod
        def load_word2vec_format(path, binary):
            return Vectors()

        @staticmethod
        def save_word2vec_format(path):
            write_text_with_header(Path(path))

    models, fasttext = types.ModuleType("gensim.models"), types.ModuleType("gensim.models.fasttext")
    models.KeyedVectors, fasttext.load_facebook_vectors = Vectors, lambda path: Vectors()
    for module in (types.ModuleType("gensim"), models, fasttext):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("\n".join(lines_to_run))
    found = read_label_embeddings(LabelEmbeddingsConfig(source=str(target)), ["red"])
    assert found.vectors[0].tolist() == WORDS["red"]


class Runs:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("name", ["w.npy", "w.pth"])
def test_no_file_runs_code(tmp_path, name, capsys):
    if name == "w.npy":
        np.save(tmp_path / name, np.array([[Runs()]], object), allow_pickle=True)
    else:
        torch.save(Runs(), tmp_path / name)
    with pytest.raises(DataError, match="cannot be read as an array"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / name)), ["a"])
    assert "must not run" not in capsys.readouterr().out


def test_rows_without_names_are_the_labels_of_the_dataset_in_order(tmp_path):
    for array in (np.arange(1, 13).reshape(4, 3), np.arange(1, 13).reshape(4, 3).T):
        np.save(tmp_path / "w.npy", array)
        config = LabelEmbeddingsConfig(source=str(tmp_path / "w.npy"))
        found = read_label_embeddings(config, ["d", "a"], ordered=["a", "b", "c", "d"])
        np.testing.assert_array_equal(found.vectors.numpy(), [[10, 11, 12], [1, 2, 3]])


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of NUS-WIDE is not here")
def test_the_real_vectors_of_nus_wide():
    config = LabelEmbeddingsConfig(source=str(SAMPLE / "nus_wordvec_array.npy"), names=str(SAMPLE / "nus_classes.json"))
    names = list(json.loads((SAMPLE / "nus_classes.json").read_text()).values())
    found = read_label_embeddings(config, names)
    assert found.vectors.shape == (1006, 300)
    np.testing.assert_allclose(found.vectors.norm(dim=1).numpy(), 1, atol=1e-5)
    nearest = (found.vectors @ found.vectors[names.index("dog")]).argsort(descending=True)[:4]
    assert "dogs" in [names[column] for column in nearest]  # the columns belong to these names
    unnamed = LabelEmbeddingsConfig(source=config.source)
    assert read_label_embeddings(unnamed, names[::-1], ordered=names).select(names).equals(found)


def test_templates_are_for_text_models_alone(tmp_path):
    FILES["glove.txt"](tmp_path / "glove.txt")
    config = LabelEmbeddingsConfig(source=str(tmp_path / "glove.txt"), templates=("a photo of a {}",))
    with pytest.raises(DataError, match=r"only a text model reads sentences; glove.txt has single words"):
        read_label_embeddings(config, ["red"])


@pytest.mark.parametrize(
    ("source", "settings", "unused"),
    [
        ("random:3", {"seed": 3}, []),
        ("words.txt", {"seed": 3}, ["seed"]),
        ("words.npy", {"names": "n", "aliases": "a"}, []),
        ("words.npy", {"aliases": "a", "templates": ("a {}",)}, ["aliases", "templates"]),
        ("random:3", {"names": "n", "aliases": "a", "templates": ("a {}",)}, ["names", "aliases", "templates"]),
        ("package:x", {"names": "n", "aliases": "a", "templates": ("a {}",)}, ["names"]),
        ("open_clip:ViT-B-32/w.pt", {"aliases": "a", "templates": ("a {}",)}, []),
        ("words.txt", {"aliases": "a"}, []),
    ],
)
def test_settings_without_effect_are_named(source, settings, unused):
    found = LabelEmbeddingsConfig(source=source, **settings).unused()
    assert [sentence.removeprefix("head.label_embeddings.").split("=")[0].split(":")[0] for sentence in found] == unused


# Random vectors, and the vectors themselves ---------------------------------------------------------------------------


def test_random_vectors_depend_on_name_and_seed_alone():
    config = LabelEmbeddingsConfig(source="random:50")
    first = read_label_embeddings(config, ["a", "b", "c"])
    assert first.vectors.shape == (3, 50)
    assert read_label_embeddings(config, ["c", "a", "b"]).select(["a", "b", "c"]).equals(first)
    assert not read_label_embeddings(LabelEmbeddingsConfig(source="random:50", seed=1), ["a", "b", "c"]).equals(first)
    many = read_label_embeddings(LabelEmbeddingsConfig(source="random:200"), [str(n) for n in range(200)]).vectors
    assert many.mean().item() == pytest.approx(0, abs=0.02)
    assert many.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("source", ["random:", "random:x", "random:0", "random:-1"])
def test_random_vectors_need_a_width(source):
    with pytest.raises(DataError, match="a width is needed, as in random:300"):
        read_label_embeddings(LabelEmbeddingsConfig(source=source), ["a"])


def test_a_source_that_is_not_there_lists_what_a_source_can_be(tmp_path):
    with pytest.raises(DataError, match=r"(?s)no such file or folder; use one of.*words.vec.*package:NAME"):
        read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "absent.txt")), ["a"])


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", ""]])
def test_names_that_are_no_labels(names):
    with pytest.raises(DataError):
        read_label_embeddings(LabelEmbeddingsConfig(source="random:3"), names)


def test_selecting_and_joining():
    ours = LabelEmbeddings(("a", "b"), torch.tensor([[1.0, 2], [3, 4]]), "ours")
    assert ours.select(["b", "a"]).vectors.tolist() == [[3, 4], [1, 2]]
    with pytest.raises(DataError, match="ours: no label embedding for 1 label"):
        ours.select(["a", "c"])
    theirs = LabelEmbeddings(("b", "c"), torch.tensor([[9.0, 9], [5, 6]]), "theirs")
    joined = ours.joined(theirs)
    assert (joined.names, joined.source) == (("a", "b", "c"), "ours")
    assert joined.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]  # what is known stays
    assert ours.joined(ours) is ours
    with pytest.raises(DataError, match="3 names"):
        LabelEmbeddings(("a", "b", "c"), torch.ones(2, 2), "ours")


@pytest.fixture
def readings(monkeypatch, tmp_path):
    """Which files of words were read through, with a cache of this test's own."""
    monkeypatch.setenv("MLDEC_CACHE", str(tmp_path / "cache"))
    read, plain = [], embedding_files.open_embedding_file
    monkeypatch.setattr(
        embedding_files, "open_embedding_file", lambda path, names=None: read.append(path.name) or plain(path, names)
    )
    return read


def test_a_file_of_words_is_read_once_for_a_text(tmp_path, readings):
    """Kept by content: a copy is known, other words in the same file and other files are not."""
    write_glove(tmp_path / "a.txt")
    first = read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "a.txt")), ["red", "dog"])
    (tmp_path / "copy.txt").write_bytes((tmp_path / "a.txt").read_bytes())
    again = read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "copy.txt")), ["dog", "red"])
    assert readings == ["a.txt"]
    assert torch.equal(again.vectors, first.vectors[[1, 0]])
    read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "copy.txt")), ["dog", "red seven"])
    assert readings == ["a.txt", "copy.txt"]
    (tmp_path / "a.txt").write_text("red 9 9 9\ndog 1 1 1\n")
    changed = read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "a.txt")), ["red", "dog"])
    assert changed.vectors.tolist() == [[9, 9, 9], [1, 1, 1]]


def test_other_names_of_the_same_array_are_other_vectors(tmp_path, readings):
    np.save(tmp_path / "a.npy", np.eye(2, dtype=np.float32))
    for names in (["red", "dog"], ["dog", "red"]):
        (tmp_path / "names.txt").write_text("\n".join(names))
        config = LabelEmbeddingsConfig(source=str(tmp_path / "a.npy"), names=str(tmp_path / "names.txt"))
        assert read_label_embeddings(config, ["red"]).vectors[0].argmax() == names.index("red")


def test_a_label_without_a_vector_stays_an_error(tmp_path, readings):
    write_glove(tmp_path / "a.txt")
    for _ in range(2):
        with pytest.raises(DataError, match="no label embedding"):
            read_label_embeddings(LabelEmbeddingsConfig(source=str(tmp_path / "a.txt")), ["red", "xylophone"])


def test_two_labels_may_have_one_alias(tmp_path, readings):
    write_glove(tmp_path / "a.txt")
    (tmp_path / "aliases.tsv").write_text("crimson\tred\n")
    config = LabelEmbeddingsConfig(source=str(tmp_path / "a.txt"), aliases=str(tmp_path / "aliases.tsv"))
    vectors = read_label_embeddings(config, ["crimson", "red"]).vectors
    assert torch.equal(vectors[0], vectors[1])
