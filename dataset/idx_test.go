package dataset

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func zip(t testing.TB, data ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	for _, d := range data {
		if _, err := w.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// broken is a good pair of files with one thing wrong in one of them.
var broken = map[string]struct {
	change func(images, labels []byte) ([]byte, []byte)
	want   error
	text   string
}{
	"no bytes": {func(i, l []byte) ([]byte, []byte) { return nil, l },
		ErrTruncated, "file too short: images has 0 bytes, not even the 4 of the magic number"},
	"half a header": {func(i, l []byte) ([]byte, []byte) { return i[:19], l },
		ErrTruncated, "file too short: images has 19 bytes, the header alone wants 20"},
	"a pixel missing": {func(i, l []byte) ([]byte, []byte) { return i[:43], l },
		ErrTruncated, "file too short: images has 43 bytes, its header [3 2 2 2] wants 44"},
	"a label missing": {func(i, l []byte) ([]byte, []byte) { return i, l[:10] },
		ErrTruncated, "file too short: labels has 10 bytes, its header [3] wants 11"},
	"a pixel too many": {func(i, l []byte) ([]byte, []byte) { return append(i, 0), l },
		ErrTrailing, "bytes after the end of the data: images goes on after the 44 bytes that its header [3 2 2 2] wants"},
	"a label too many": {func(i, l []byte) ([]byte, []byte) { return i, append(l, 0) },
		ErrTrailing, "bytes after the end of the data: labels goes on after the 11 bytes that its header [3] wants"},
	"files exchanged": {func(i, l []byte) ([]byte, []byte) { return l, i },
		ErrMagic, "not an IDX file of the wanted kind: images starts with 00000801, wanted 00000803 (unsigned bytes, dimensions: [3 4])"},
	"images for labels": {func(i, l []byte) ([]byte, []byte) { return i, i },
		ErrMagic, "not an IDX file of the wanted kind: labels starts with 00000804, wanted 00000801 (unsigned bytes, dimensions: [1])"},
	"signed bytes": {func(i, l []byte) ([]byte, []byte) { i[2] = 9; return i, l },
		ErrMagic, "not an IDX file of the wanted kind: images starts with 00000904, wanted 00000803 (unsigned bytes, dimensions: [3 4])"},
	"highest bit": {func(i, l []byte) ([]byte, []byte) { i[0] = 0x80; return i, l },
		ErrMagic, "not an IDX file of the wanted kind: images starts with 80000804, wanted 00000803 (unsigned bytes, dimensions: [3 4])"},
	"no rows": {func(i, l []byte) ([]byte, []byte) { i[11] = 0; return i, l },
		ErrShape, "a dimension is zero: images, dimension 2 of 4"},
	"no labels": {func(i, l []byte) ([]byte, []byte) { return i, appendHeader(nil, 0) },
		ErrShape, "a dimension is zero: labels, dimension 1 of 1"},
	"fewer labels": {func(i, l []byte) ([]byte, []byte) { return i, append(appendHeader(nil, 2), 4, 0) },
		ErrCount, "wrong count: images has 3 images, labels has 2 labels"},
	"a large dimension": {func(i, l []byte) ([]byte, []byte) { i[4] = 0xff; return i, l },
		ErrTooLarge, "data set too large: images says ff000003000000020000000200000002 in its header, the limit for it is 1073741824 bytes"},
	"a product of 2^128": {func(i, l []byte) ([]byte, []byte) { return append(i[:4], bytes.Repeat([]byte{255}, 16)...), l },
		ErrTooLarge, "data set too large: images says ffffffffffffffffffffffffffffffff in its header, the limit for it is 1073741824 bytes"},
	"labels that fill what images leave": {func(i, l []byte) ([]byte, []byte) {
		binary.BigEndian.PutUint32(l[4:], MaxBytes-44-8)
		return i, l
	}, ErrTruncated, "file too short: labels has 11 bytes, its header [1073741772] wants 1073741780"},
	"labels beyond what images leave": {func(i, l []byte) ([]byte, []byte) {
		binary.BigEndian.PutUint32(l[4:], MaxBytes-44-8+1)
		return i, l
	}, ErrTooLarge, "data set too large: labels says 3fffffcd in its header, the limit for it is 1073741780 bytes"},
}

func TestParseErrors(t *testing.T) {
	for name, c := range broken {
		images, labels := c.change(small())
		for how, parse := range map[string]func() (*Data, error){
			"Parse":      func() (*Data, error) { return Parse(images, labels) },
			"Read":       func() (*Data, error) { return Read(bytes.NewReader(images), bytes.NewReader(labels)) },
			"Read, gzip": func() (*Data, error) { return Read(bytes.NewReader(zip(t, images)), bytes.NewReader(zip(t, labels))) },
		} {
			_, err := parse()
			if !errors.Is(err, c.want) {
				t.Errorf("%s, %s: got %v, want %v", name, how, err, c.want)
			} else if how == "Parse" && err.Error() != c.text {
				t.Errorf("%s:\n got %s\nwant %s", name, err, c.text)
			}
		}
	}
}

func TestReadDamagedGzip(t *testing.T) {
	images, labels := small()
	z := zip(t, images)
	for name, c := range map[string]struct {
		images []byte
		want   error
	}{
		"cut after the magic number": {z[:2], ErrTruncated},
		"cut in the data":            {z[:len(z)-12], ErrTruncated},
		"cut in the checksum":        {z[:len(z)-1], ErrTruncated},
		"a wrong checksum":           {append(bytes.Clone(z[:len(z)-8]), 0, 0, 0, 0, 44, 0, 0, 0), gzip.ErrChecksum},
		"bytes after the stream":     {append(bytes.Clone(z), "more than a gzip header"...), gzip.ErrHeader},
	} {
		_, err := Read(bytes.NewReader(c.images), bytes.NewReader(labels))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), "images") {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// endless is a stream of zeros without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestReadIsBounded reads files that are much longer than their header says or much shorter: neither may cost more
// memory than the shorter of the two calls for, and a stream without end must not be read for ever.
func TestReadIsBounded(t *testing.T) {
	images, labels := small()
	huge := appendHeader(nil, 1000000, 32, 32)
	bomb := zip(t, images, make([]byte, 64<<20))
	for name, c := range map[string]struct {
		images io.Reader
		want   error
	}{
		"endless":                    {io.MultiReader(bytes.NewReader(images), endless{}), ErrTrailing},
		"gzip of 64 MiB":             {bytes.NewReader(bomb), ErrTrailing},
		"a header of 1 GB alone":     {bytes.NewReader(huge), ErrTruncated},
		"the same as gzip":           {bytes.NewReader(zip(t, huge)), ErrTruncated},
		"a header above the limit":   {io.MultiReader(bytes.NewReader(appendHeader(nil, 1<<30, 32, 32)), endless{}), ErrTooLarge},
		"no IDX, and without an end": {endless{}, ErrMagic},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Read(c.images, bytes.NewReader(labels))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: %d bytes allocated", name, used)
		}
	}
}

func writeFiles(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpen(t *testing.T) {
	images, labels := small()
	want := mustParse(t, images, labels).Identity()
	zi, zl := zip(t, images), zip(t, labels)
	junk := []byte("junk")
	for name, c := range map[string]struct {
		prefix string
		files  map[string][]byte
	}{
		"train":               {"", map[string][]byte{"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels, "README": junk}},
		"t10k, gzip":          {"", map[string][]byte{"t10k-images-idx3-ubyte.gz": zi, "t10k-labels-idx1-ubyte.gz": zl}},
		"one of them gzip":    {"", map[string][]byte{"t10k-images-idx3-ubyte.gz": zi, "t10k-labels-idx1-ubyte": labels}},
		"gzip unpacked early": {"", map[string][]byte{"t10k-images-idx3-ubyte.gz": images, "t10k-labels-idx1-ubyte": labels}},
		"no prefix":           {"", map[string][]byte{"images-idx4-ubyte": images, "labels-idx1-ubyte": labels}},
		"with dots":           {"", map[string][]byte{"train-images.idx3-ubyte": images, "train-labels.idx1-ubyte": labels}},
		"EMNIST": {"emnist-digits-train", map[string][]byte{
			"emnist-digits-train-images-idx3-ubyte.gz": zi, "emnist-digits-train-labels-idx1-ubyte.gz": zl,
			"emnist-digits-test-images-idx3-ubyte.gz": junk, "emnist-digits-test-labels-idx1-ubyte.gz": junk}},
		"chosen by prefix": {"t10k", map[string][]byte{
			"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels,
			"train-images-idx3-ubyte": junk, "train-labels-idx1-ubyte": junk}},
		"plain and gzip":     {"", map[string][]byte{"images-idx3-ubyte": images, "images-idx3-ubyte.gz": junk, "labels-idx1-ubyte": labels}},
		"half a pair beside": {"", map[string][]byte{"images-idx3-ubyte": images, "labels-idx1-ubyte": labels, "train-images-idx3-ubyte": junk}},
	} {
		d, err := Open(writeFiles(t, c.files), c.prefix)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d.Identity() != want {
			t.Errorf("%s: read %v, want %v", name, d.Identity(), want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	images, labels := small()
	for name, c := range map[string]struct {
		prefix string
		files  map[string][]byte
		want   error
		text   string
	}{
		"empty":       {"", nil, ErrNoFiles, "wanted [PREFIX-]images-idx3-ubyte and [PREFIX-]labels-idx1-ubyte"},
		"other names": {"", map[string][]byte{"images.png": images, "train-labels-idx1-ubyte.zip": labels}, ErrNoFiles, "wanted"},
		"half a pair": {"", map[string][]byte{"train-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels}, ErrNoFiles, "wanted"},
		"other prefix": {"t10k", map[string][]byte{"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels},
			ErrNoFiles, "wanted t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"},
		"two pairs": {"", map[string][]byte{
			"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels,
			"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels}, ErrAmbiguous, `["t10k" "train"]`},
		"two names": {"", map[string][]byte{"images-idx3-ubyte": images, "images-idx4-ubyte": images, "labels-idx1-ubyte": labels},
			ErrAmbiguous, "images-idx3-ubyte and images-idx4-ubyte"},
		"broken file": {"", map[string][]byte{"images-idx3-ubyte": images, "labels-idx1-ubyte": labels[:9]},
			ErrTruncated, "labels-idx1-ubyte has 9 bytes"},
	} {
		_, err := Open(writeFiles(t, c.files), c.prefix)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %v ... %s", name, err, c.want, c.text)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "absent"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// openMNIST gives the 10,000 test digits of MNIST, which are not part of this repository.
func openMNIST(t *testing.T) *Data {
	t.Helper()
	dir := os.Getenv("MINERD_MNIST")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "data", "mnist")
	}
	d, err := Open(dir, "t10k")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%v: set MINERD_MNIST to a folder with t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestMNIST(t *testing.T) {
	d := openMNIST(t)
	if err := d.Match(Identity{
		Images: File{Root: hash(t, "828ceea06ce5d21605c61add9ac214711e6efca15ff4a852ab7b44adf3ad23b3"), Length: 16 + 10000*784},
		Labels: File{Root: hash(t, "1e00f963c4cff71a5ed8d6045b5b87f83fd858ac84a6ca9be0ffa2909d71b752"), Length: 8 + 10000},
		Count:  10000,
	}); err != nil {
		t.Error(err)
	}
	if err := d.CheckLabels(10); err != nil {
		t.Error(err)
	}
	if s := d.Samples(0, 5); !bytes.Equal(s.Labels, []byte{7, 2, 1, 0, 4}) {
		t.Errorf("the first labels are %v", s.Labels)
	}
}

// FuzzParse: what is accepted is the only form of what it says, and Read accepts whatever Parse does.
func FuzzParse(f *testing.F) {
	images, labels := small()
	f.Add(images, labels)
	f.Add(append(appendHeader(nil, 1, 1, 1), 7), append(appendHeader(nil, 1), 7))
	f.Add(zip(f, images), zip(f, labels))
	for _, c := range broken {
		images, labels := c.change(small())
		f.Add(images, labels)
	}
	f.Fuzz(func(t *testing.T, images, labels []byte) {
		var kind Error
		d, err := Parse(images, labels)
		if err != nil && !errors.As(err, &kind) {
			t.Fatalf("an error of no kind: %v", err)
		}
		r, readErr := Read(bytes.NewReader(images), bytes.NewReader(labels))
		if err == nil && (readErr != nil || r.Identity() != d.Identity()) {
			t.Fatalf("Parse accepts, Read gives %v", readErr)
		}
		if readErr != nil {
			return
		}
		dims := []int{r.Count(), r.Rows(), r.Cols(), r.Channels()}
		s := r.Samples(0, r.Count())
		if !bytes.Equal(r.ImageFile(), append(appendHeader(nil, dims[:r.ImageFile()[3]]...), s.Pixels...)) {
			t.Error("image file and what was read of it differ")
		}
		if !bytes.Equal(r.LabelFile(), append(appendHeader(nil, dims[0]), s.Labels...)) {
			t.Error("label file and what was read of it differ")
		}
	})
}
