package dataset

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/descentnet/minerd/nn"
)

func hash(t *testing.T, s string) nn.Hash {
	t.Helper()
	h, err := nn.ParseHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// small is 3 images of 2 x 2 pixels with 2 channels.
func small() (images, labels []byte) {
	images = appendHeader(nil, 3, 2, 2, 2)
	for i := range byte(24) {
		images = append(images, i)
	}
	return images, append(appendHeader(nil, 3), 4, 0, 9)
}

func mustParse(t testing.TB, images, labels []byte) *Data {
	t.Helper()
	d, err := Parse(images, labels)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSamples(t *testing.T) {
	images, labels := small()
	d := mustParse(t, images, labels)
	if d.Count() != 3 || d.Rows() != 2 || d.Cols() != 2 || d.Channels() != 2 {
		t.Errorf("shape is %d x (%d, %d, %d)", d.Count(), d.Rows(), d.Cols(), d.Channels())
	}
	s := d.Samples(1, 3)
	if s.Len() != 2 || s.Size != 8 || !bytes.Equal(s.Labels, []byte{0, 9}) || !bytes.Equal(s.Pixels, images[20+8:]) {
		t.Errorf("samples 1 and 2 are %v", s)
	}
	if s := d.Samples(0, 1); cap(s.Pixels) != 8 || cap(s.Labels) != 1 {
		t.Error("appending to samples would overwrite those that follow")
	}
	if &s.Pixels[0] != &images[20+8] {
		t.Error("pixels were copied")
	}
	if !bytes.Equal(d.ImageFile(), images) || !bytes.Equal(d.LabelFile(), labels) {
		t.Error("the files are not the bytes parsed")
	}
}

func TestCheckLabels(t *testing.T) {
	images, labels := small()
	d := mustParse(t, images, labels)
	if err := d.CheckLabels(10); err != nil {
		t.Error(err)
	}
	err := d.CheckLabels(9)
	if !errors.Is(err, ErrLabel) || err.Error() != "label out of range: label 2 is 9, but there are 9 classes" {
		t.Errorf("9 classes: %v", err)
	}
}

func TestMatch(t *testing.T) {
	images, labels := small()
	d := mustParse(t, images, labels)
	want := Identity{
		Images: File{Root: nn.BytesRoot(images), Length: 44},
		Labels: File{Root: nn.BytesRoot(labels), Length: 11},
		Count:  3,
	}
	if d.Identity() != want {
		t.Fatalf("identity is %v, want %v", d.Identity(), want)
	}
	if err := d.Match(want); err != nil {
		t.Fatal(err)
	}
	other := nn.Hash{1}
	for name, c := range map[string]struct {
		change func(*Identity)
		want   error
		text   []string
	}{
		"count":         {func(w *Identity) { w.Count = 4 }, ErrCount, []string{"3 images", "wants 4"}},
		"image length":  {func(w *Identity) { w.Images.Length++ }, ErrLength, []string{"images", "44", "45"}},
		"label length":  {func(w *Identity) { w.Labels.Length-- }, ErrLength, []string{"labels", "11", "10"}},
		"root of image": {func(w *Identity) { w.Images.Root = other }, ErrRoot, []string{"images", want.Images.Root.String(), other.String()}},
		"root of label": {func(w *Identity) { w.Labels.Root = other }, ErrRoot, []string{"labels", want.Labels.Root.String(), other.String()}},
	} {
		w := want
		c.change(&w)
		err := d.Match(w)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
			continue
		}
		for _, part := range c.text {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, err, part)
			}
		}
	}
}
