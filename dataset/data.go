// Package dataset holds the labelled images that a task trains on: IDX files read from disk or drawn by the program
// itself, how they are split, and the roots by which every node knows that it has the same bytes.
package dataset

import (
	"fmt"

	"github.com/descentnet/minerd/nn"
)

// Data is a set of labelled images in memory, in the form of the two IDX files that hold it. It is never changed
// after it is made and may be used by many goroutines.
type Data struct {
	rows, cols, channels, count int
	images, labels              []byte // whole IDX files, uncompressed
}

// Rows is the height of an image in pixels.
func (d *Data) Rows() int { return d.rows }

// Cols is the width of an image in pixels.
func (d *Data) Cols() int { return d.cols }

// Channels is the number of bytes of a pixel.
func (d *Data) Channels() int { return d.channels }

// Count is the number of images and of labels.
func (d *Data) Count() int { return d.count }

// ImageFile is the uncompressed IDX image file. It shares memory with d: it must not be changed.
func (d *Data) ImageFile() []byte { return d.images }

// LabelFile is the uncompressed IDX label file. It shares memory with d: it must not be changed.
func (d *Data) LabelFile() []byte { return d.labels }

// Samples are the images lo <= i < hi with their labels. They share memory with d: they must not be changed. It
// panics if the range is not inside the set.
func (d *Data) Samples(lo, hi int) nn.Samples {
	size := d.rows * d.cols * d.channels
	pixels := d.images[len(d.images)-d.count*size:]
	labels := d.labels[len(d.labels)-d.count:]
	return nn.Samples{Pixels: pixels[lo*size : hi*size : hi*size], Labels: labels[lo:hi:hi], Size: size}
}

// CheckLabels returns ErrLabel unless every label is below classes.
func (d *Data) CheckLabels(classes int) error {
	for i, l := range d.Samples(0, d.count).Labels {
		if int(l) >= classes {
			return fmt.Errorf("%w: label %d is %d, but there are %d classes", ErrLabel, i, l, classes)
		}
	}
	return nil
}

// File identifies the exact bytes of one uncompressed file.
type File struct {
	Root   nn.Hash // nn.BytesRoot
	Length int     // bytes
}

// Identity is what a task states about its data.
type Identity struct {
	Images, Labels File
	Count          int // images, as many as labels
}

// Identity hashes both files.
func (d *Data) Identity() Identity {
	return Identity{Images: identify(d.images), Labels: identify(d.labels), Count: d.count}
}

func identify(file []byte) File { return File{Root: nn.BytesRoot(file), Length: len(file)} }

// Match compares d with what a task asks for. It returns ErrCount, ErrLength or ErrRoot, and says which file differs,
// what it is and what it should be. Nothing is hashed if counts or lengths differ already.
func (d *Data) Match(want Identity) error {
	if d.count != want.Count {
		return fmt.Errorf("%w: there are %d images, the task wants %d", ErrCount, d.count, want.Count)
	}
	files := []struct {
		name string
		got  []byte
		want File
	}{{"images", d.images, want.Images}, {"labels", d.labels, want.Labels}}
	for _, f := range files {
		if len(f.got) != f.want.Length {
			return fmt.Errorf("%w: the %s file is %d bytes long, the task wants %d", ErrLength, f.name, len(f.got), f.want.Length)
		}
	}
	for _, f := range files {
		if root := nn.BytesRoot(f.got); root != f.want.Root {
			return fmt.Errorf("%w: the %s file has the root %s, the task wants %s", ErrRoot, f.name, root, f.want.Root)
		}
	}
	return nil
}
