// The same program with dlib.
#include <dlib/dnn.h>

#include <cstdio>

using lenet = dlib::loss_multiclass_log<dlib::fc<
    10, dlib::relu<dlib::fc<
            84, dlib::relu<dlib::fc<
                    120, dlib::max_pool<2, 2, 2, 2,
                                        dlib::relu<dlib::con<16, 5, 5, 1, 1,
                                                             dlib::max_pool<2, 2, 2, 2, dlib::relu<dlib::con<6, 5, 5, 1, 1, dlib::input<dlib::matrix<float>>>>>>>>>>>>>>;

int main() {
  lenet net;
  dlib::dnn_trainer<lenet> trainer(net, dlib::sgd(0, 0));
  std::vector<dlib::matrix<float>> const x(64, dlib::matrix<float>(dlib::uniform_matrix<float>(28, 28, 0.5f)));
  std::vector<unsigned long> const y(64, 3);
  trainer.train_one_step(x, y);
  std::printf("%g\n", trainer.get_average_loss());
}
